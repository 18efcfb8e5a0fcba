"""Proofs about data: signatures, the way of each row, a bill of materials, and a description of data sets."""
