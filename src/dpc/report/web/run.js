// The page of a run: its list of instances, and the chosen one, whose id is in the address.

function startRun(place, { instances }) {
  const detail = el("div", { class: "detail" });
  let noted = 0;
  const show = (instance, moved) => {
    const view = instanceView(instance);
    const back = el("button", { type: "button", class: "back", onclick: () => list.box.focus() }, "back to the list");
    detail.replaceChildren(view, back);
    clearTimeout(noted);
    noted = setTimeout(() => history.replaceState(null, "", `#instance=${encodeURIComponent(instance.id)}`), 300);
    if (moved) view.querySelector("h3").focus();
  };
  const list = new InstanceList(instances, show);
  place.replaceChildren(list.element, detail);
  const named = () => {
    const match = /^#instance=(.+)$/.exec(location.hash);
    return match && instances.find((each) => encodeURIComponent(each.id) === match[1]);
  };
  window.addEventListener("hashchange", () => named() && list.open(named(), true));
  const worth = [(each) => each.flow && each.outcome === "fixed", (each) => each.flow && each.decision?.triggered, (each) => each.flow, (each) => each.decision?.triggered].map((test) => instances.find(test));
  const first = named() ?? worth.find(Boolean) ?? instances[0];
  if (first) {
    list.open(first, false);
    // The address changes only when an instance is chosen.
    clearTimeout(noted);
  }
  if (named()) place.scrollIntoView();
}
