# docker build -t poisonbench .
#   With a CPU build of torch, about 4 GB smaller; URL is the package index of PyTorch's CPU builds, named on pytorch.org:
#   docker build -t poisonbench --build-arg LOCK=constraints-cpu.txt --build-arg INDEX=URL .
# mkdir -p results && docker run --rm --user "$(id -u)" -v "$PWD/results:/home/bench/results" poisonbench attack=backdoor defense=spectral
FROM python:3.12-slim
ARG LOCK=constraints.txt
ARG INDEX=""
COPY . /source
RUN pip install --no-cache-dir -c "/source/${LOCK}" ${INDEX:+--extra-index-url "${INDEX}"} /source && useradd --create-home --uid 1000 bench
USER 1000
WORKDIR /home/bench
ENTRYPOINT ["python", "-m", "poisonbench"]
