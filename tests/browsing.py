"""A reader with a browser, for the tests that open pages."""

from __future__ import annotations

from urllib.parse import urljoin

# axe's rules whose breach keeps some reader from reading or using a page, those on colours apart,
# and some that axe holds to be slight or experimental.
AXE_RULES = r"""() => [
  "label-content-name-mismatch", "aria-allowed-role", "aria-deprecated-role",
  ...axe._audit.rules
    .filter(rule => rule.enabled && !rule.tags.includes("experimental"))
    .filter(rule => ["serious", "critical"].includes(rule.impact))
    .map(rule => rule.id)
    .filter(id => !["color-contrast", "link-in-text-block"].includes(id)),
]"""
# What axe finds on the page, or within `where`. Texts in the same colours and size on the same
# ground have the same contrast: axe judges `often` of each kind, those with the fewest parts, in
# light and in dark colours; `known` counts what it judged on the pages before.
#
# Each run of axe looks at every element of the page, most of which are the words of highlighted
# code. Where none of them is to be judged, code becomes plain text before axe runs.
JUDGE = r"""async ([where, known, often]) => {
  const turn = theme => { document.documentElement.dataset.theme = theme; };
  const boxes = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const {data, parentElement} = walker.currentNode;
    if (data.trim() && !parentElement.closest("script, .math")) boxes.add(parentElement);
  }
  const chosen = theme => {
    turn(theme);
    const grounds = new Map();
    const ground = box => {
      if (!box) return "";
      if (!grounds.has(box)) {
        const {backgroundColor, backgroundImage, opacity, filter} = getComputedStyle(box);
        const own = [backgroundColor, backgroundImage, opacity, filter].join();
        const plain = own === "rgba(0, 0, 0, 0),none,1,none";
        grounds.set(box, ground(box.parentElement) + (plain ? "" : own + ";"));
      }
      return grounds.get(box);
    };
    const kinds = new Map();
    for (const box of boxes) {
      if (!box.checkVisibility({visibilityProperty: true})) continue;
      const {color, fontSize, fontWeight, textShadow, textDecorationLine} = getComputedStyle(box);
      const beside = box.matches("a") ? getComputedStyle(box.parentElement).color : "";
      const look = [color, fontSize, fontWeight, textShadow, textDecorationLine, beside];
      const kind = [theme, ...look, ground(box)].join("|");
      if (!kinds.has(kind)) kinds.set(kind, []);
      kinds.get(kind).push(box);
    }
    const parts = box => box.getElementsByTagName("*").length;
    const asked = [];
    for (const [kind, all] of kinds) {
      const left = Math.max(0, often - (known[kind] ?? 0));
      if (!left) continue;
      const picked = all.sort((one, other) => parts(one) - parts(other)).slice(0, left);
      known[kind] = (known[kind] ?? 0) + picked.length;
      asked.push(...picked);
    }
    return asked;
  };
  const asked = {light: chosen("light"), dark: chosen("dark")};
  const judged = new Set([...asked.light, ...asked.dark]);
  const plain = part => part.matches("span") && !judged.has(part)
    && [...part.attributes].every(({name}) => name === "class");
  for (const code of document.querySelectorAll("pre")) {
    if ([...code.querySelectorAll("*")].every(plain)) code.textContent = code.textContent;
  }
  const run = async (rules, where) => {
    const options = {runOnly: rules, resultTypes: ["violations"], preload: false, elementRef: true};
    return (await axe.run(where, options)).violations;
  };
  const told = ({id, nodes}) => `${id}: ${nodes.map(node => node.html.slice(0, 200))}`;
  const faults = [];
  for (const theme of ["dark", "light"]) {
    if (!asked[theme].length) continue;
    turn(theme);
    const found = await run(["color-contrast", "link-in-text-block"], {include: asked[theme]});
    faults.push(...found.map(fault => `${theme}: ${told(fault)}`));
  }
  const rules = (AXE_RULES)();
  // Formulas stand there as TeX: the test of formulas sees them typeset. To leave them out here is
  // faster than to have axe compare each element with each formula.
  for (const {id, nodes} of await run(rules, where ?? document)) {
    const others = nodes.filter(({element}) => !element.closest(".math"));
    if (others.length) faults.push(told({id, nodes: others}));
  }
  return [known, faults];
}""".replace("(AXE_RULES)", f"({AXE_RULES})")
# Goes to another part of the page, and waits until the page has heard of it.
FOLLOW = r"""part => new Promise(done => {
  addEventListener("hashchange", () => done(), {once: true});
  location.hash = part;
})"""
AT_REST = "*, ::before, ::after { transition: none !important; animation: none !important; }"


class Reader:
    """A browser window that may go to the site alone, and remembers what went wrong."""

    def __init__(self, browser, address: str, width: int = 1280, mathjax: bool = True):
        self.address, self.complaints, self.mathjax = address, [], mathjax
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme="light")
        self.page = self.context.new_page()
        self.page.on("request", self.watch)
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", self.miss)
        if not mathjax:
            session = self.context.new_cdp_session(self.page)
            session.send("Network.enable")
            session.send("Network.setBlockedURLs", {"urls": ["*/mathjax/*"]})

    def watch(self, request):
        if not request.url.startswith((self.address, "data:")):
            self.complaints.append(f"asked for {request.url}")

    def miss(self, request):
        # What the browser was still fetching when the reader left the page is broken off, not lost.
        kept_out = not self.mathjax and "/mathjax/" in request.url
        if request.failure != "net::ERR_ABORTED" and not kept_out:
            self.complaints.append(f"failed: {request.url}: {request.failure}")

    def hear(self, message):
        kept_out = not self.mathjax and "ERR_BLOCKED_BY_CLIENT" in message.text
        if message.type == "error" and not kept_out:
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, name: str):
        self.page.goto(urljoin(self.address, name))
        if self.mathjax:
            self.page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => true) : true")
        return self.page

    def close(self):
        self.context.close()
        assert not self.complaints, "\n".join(self.complaints)
