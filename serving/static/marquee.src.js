// Shows banners and reports what became of them; docs/clients.md says how a page uses it.
// What is served is marquee.js: this file as tests/unit/test_snippet.py shortens it.
// Nothing here may throw into the page: what fails leaves the page as it was.
((w, d) => {
w.marquee = (o = {}) => {
  let base = (o.url || "").replace(/\/$/, ""), queue = [], timer, own,
  // Nothing is kept of somebody who refused: without a cookie the visitor has no id.
  visitor = () => {
    if (o.visitor || o.store === false || navigator.globalPrivacyControl) return o.visitor;
    try {
      own = localStorage.marquee || own || [...crypto.getRandomValues(new Uint8Array(16))].map(b => (b + 256).toString(16).slice(1)).join("");
      localStorage.marquee = own;
    } catch (e) {}
    return own;
  },
  // Not sendBeacon: it sends no headers, so the key would have to stand in addresses, and these in logs.
  post = (path, body, more) => fetch(base + path, {
    method: "POST",
    keepalive: true,
    credentials: "omit",
    headers: {"content-type": "application/json", ...(o.key && {"x-api-key": o.key})},
    body: JSON.stringify(body),
    ...more
  }).then(r => r.status > 499 || r.status == 429 ? Promise.reject() : r.ok && r.json()),
  flush = () => {
    let body = queue, send = () => post("/v1/events", body);
    queue = [];
    timer = 0;
    // An event counts once however often it arrives, so it may be sent again.
    if (body[0]) send().catch(() => setTimeout(() => send().catch(() => 0), 2e3));
  },
  report = (kind, b, who) => {
    queue.push({
      event_id: b.impression_id + "-" + kind,
      kind,
      occurred_at: new Date,
      banner_id: b.banner_id,
      impression_id: b.impression_id,
      ...who
    });
    timer = timer || setTimeout(flush, 1e3);
  },
  // Seen: half of it on the screen for ten tenths of a second without a break, in a page that is looked at.
  watch = (e, seen) => {
    let left, t, tick = () => {
      if (d.hidden) left = 10;
      left-- ? t = setTimeout(tick, 100) : (io.disconnect(), seen());
    }, io = new IntersectionObserver(x => {
      clearTimeout(t);
      left = 10;
      if (x.pop().intersectionRatio >= .5) tick();
    }, {threshold: .5});
    io.observe(e);
  };
  d.addEventListener("visibilitychange", () => d.hidden && flush());
  return {
    show: async (el, {placement, n, context} = {}) => {
      try {
        let id = visitor(), s = context?.session_id,
        a = await post("/v1/banners/recommend", {visitor_id: id, placement, n, context, reasons: false}, {signal: AbortSignal.timeout(o.timeout || 2e3)}),
        who = {visitor_id: id || s || a.request_id, session_id: s};
        if (a.slate[0]) el.replaceChildren(...a.slate.map(b => {
          let e = d.createElement("a"), i, to = b.click_url || b.landing_url;
          if (to) e.href = (to[0] == "/" ? base : "") + to;
          // A link leads to a page, and a title is text: neither can be made to run.
          if (!/^http/.test(e.protocol)) e.removeAttribute("href");
          if (b.image_url) {
            i = d.createElement("img");
            i.src = b.image_url;
            i.alt = b.title;
            e.append(i);
          } else e.textContent = b.title;
          if (!b.click_url) e.onclick = e.onauxclick = x => {
            if (x.button < 2) report("click", b, who), flush();
          };
          watch(e, () => report("seen", b, who));
          return e;
        }));
        return a;
      } catch (e) {}
    }
  };
};
})(window, document);
