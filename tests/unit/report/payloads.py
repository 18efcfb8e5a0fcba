"""What an attacker may write where a name or a reason is told: 130 texts that a page, a spreadsheet, a terminal or a template might obey."""

CODES = ("alert(1)", "alert`1`", "window.name='owned'")
TAGS = (
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<svg><script href=data:,{} />",
    "<body onload={}>",
    "<iframe src=javascript:{}>",
    "<iframe srcdoc='<script>{}</script>'>",
    "<a href=javascript:{}>x</a>",
    "<input autofocus onfocus={}>",
    "<details open ontoggle={}>",
    "<video><source onerror={}></video>",
    "<math><style><img src=x onerror={}></style></math>",
    "<object data=javascript:{}>",
    "<embed src=javascript:{}>",
    "<form action=javascript:{}><button>",
    "<template><script>{}</script></template>",
    '<noscript><p title="</noscript><img src=x onerror={}>">',
    "<style>@import 'javascript:{}'</style>",
    "<link rel=stylesheet href=javascript:{}>",
    "<meta http-equiv=refresh content=0;url=javascript:{}>",
)
WAYS_OUT = ("</script>", "</title>", "</textarea>", "</style>", "-->", "]]>", '"/>', "'>", "`>", "<!--<script>")
FORMULAS = ('HYPERLINK("http://x")', "cmd|' /C calc'!A0", "1+1", "SUM(A1)")
TERMINAL = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link",
    "\x1b[2J",
    "\x1b[1A",
    '\x1bP$q"p\x1b\\',
    "\x9b31m",
    "\x07",
    "\x08\x08",
    "\x00",
    "\x7f",
    "done\rfailed",
)
INVISIBLE = ("\u202egpj.exe", "\u2066a\u2069", "a\u200bb", "\ufeffa", "a\u00adb", "\u061ca")
MARKDOWN = ("a|b", "[x](javascript:alert(1))", "![x](http://x/y.png)", "`code`", "<!-- end -->", "# head", "**b**", "a\n| new | row |")
TEMPLATES = ("{{ 7 * 7 }}", "{% raw %}", "{#", "${7*7}", "<%= 7*7 %>", "#{7*7}", "{{ config }}", "{{''.__class__}}", "%s%n", "$(id)")

EVIL = [
    *(tag.format(code) for tag in TAGS for code in CODES),
    *(f"{way}<script>window.name='owned'</script>" for way in WAYS_OUT),
    *(f"{sign}{formula}" for sign in "=+-@\t\r" for formula in FORMULAS),
    *TERMINAL,
    *INVISIBLE,
    *MARKDOWN,
    *TEMPLATES,
]
