"""What an attacker may write where a name or a reason is told: 130 texts in the signs that a page, a spreadsheet, a terminal or a template obeys.

Each asks for nothing but a mark: an element called `mark`, a sum, a colour. A text that is shown as text shows it; that is all a test has to know.
"""

CODES = ("mark(1)", "mark`1`", "mark.name='marked'")
TAGS = (
    "<mark>{}</mark>",
    "<mark title={}>",
    "<mark title={} />",
    "<mark><mark title=data:,{} /></mark>",
    '<mark title="{}">',
    "<mark title=mark:{}>",
    "<mark title='<mark>{}</mark>'>",
    "<b title=mark:{}>x</b>",
    "<mark hidden title={}>",
    "<ul><li title={}></ul>",
    "<p><mark title={}></p>",
    "<i><b><mark title={}></b></i>",
    "<MARK TITLE={}>",
    "<\tmark title={}>",
    "<mark\ntitle={}>",
    "<template><mark>{}</mark></template>",
    '<p title="</p><mark title={}>">',
    "<!-- <mark title={}> -->",
    "&lt;mark title={}&gt;",
    "<mark title=0;mark=mark:{}>",
)
WAYS_OUT = ("</script>", "</title>", "</textarea>", "</style>", "-->", "]]>", '"/>', "'>", "`>", "<!--")
FORMULAS = ('LEN("x")', "A1|'B 2'!C3", "1+1", "SUM(A1)")
TERMINAL = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;mark\x07",
    "\x1b]8;;mark:x\x1b\\link",
    "\x1b[1m",
    "\x1b[4m",
    "\x1bPmark\x1b\\",
    "\x9b31m",
    "\x07",
    "\x08\x08",
    "\x00",
    "\x7f",
    "done\rfailed",
)
INVISIBLE = ("\u202egpj.mark", "\u2066a\u2069", "a\u200bb", "\ufeffa", "a\u00adb", "\u061ca")
MARKDOWN = ("a|b", "[x](mark:mark(1))", "![x](mark.png)", "`code`", "<!-- end -->", "# head", "**b**", "a\n| new | row |")
TEMPLATES = ("{{ 7 * 7 }}", "{% raw %}", "{#", "${7*7}", "<%= 7*7 %>", "#{7*7}", "{{ mark }}", "{{''.mark}}", "%s%s", "$(mark)")

EVIL = [
    *(tag.format(code) for tag in TAGS for code in CODES),
    *(f"{way}<mark>marked</mark>" for way in WAYS_OUT),
    *(f"{sign}{formula}" for sign in "=+-@\t\r" for formula in FORMULAS),
    *TERMINAL,
    *INVISIBLE,
    *MARKDOWN,
    *TEMPLATES,
]
