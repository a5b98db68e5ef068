"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const signed = (value) => value.toFixed(2).replace("-", "\u2212");

  // Case study: rows by emotion and verdict.
  const form = document.getElementById("filters");
  const rows = [...document.querySelectorAll(".case")].map((element) => ({
    element,
    labels: JSON.parse(element.dataset.labels),
    right: element.dataset.right,
  }));
  const filter = () => {
    const label = form.elements.label.value;
    const verdict = form.elements.verdict.value;
    const run = form.elements.run ? Number(form.elements.run.value) : 0;
    let shown = 0;
    for (const row of rows) {
      const judged = row.right[run] === "1" ? "right" : "wrong";
      const keep = (!label || row.labels.includes(label)) && (!verdict || verdict === judged);
      row.element.hidden = !keep;
      shown += keep;
    }
    document.getElementById("count").textContent =
      shown === 1 ? "1 utterance" : `${shown} utterances`;
  };
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter(); // a browser may have kept the choices of an earlier visit

  // Maps: colour.
  const colors = document.getElementById("colors");
  const paint = () => {
    const byVA = colors.querySelector("input:checked").value === "va";
    document.getElementById("maps").classList.toggle("by-va", byVA);
    document.getElementById("legend-emotion").hidden = byVA;
    document.getElementById("legend-va").hidden = !byVA;
  };
  if (colors) {
    colors.addEventListener("change", paint);
    paint();
  }

  // Maps: one utterance is current, on all of them.
  const maps = [...document.querySelectorAll(".map")].map((figure) => ({
    plane: figure.querySelector(".plane"),
    svg: figure.querySelector(".plane svg"),
    ring: figure.querySelector(".ring"),
    readout: figure.querySelector(".readout"),
    modality: figure.querySelector("figcaption b").textContent,
    points: [...figure.querySelectorAll(".plane use")].map((use) => ({
      x: Number(use.getAttribute("x")),
      y: Number(use.getAttribute("y")),
    })),
  }));
  const emotions = (one) => one.emotions.map((i) => data.labels[i]).join(", ") || "no emotion";
  const score = (one, modality) => {
    const point = one.scores[modality];
    return point ? `${modality} valence ${signed(point[0])}, arousal ${signed(point[1])}` : "";
  };
  let current = 0;
  const show = (map, index) => {
    current = index;
    const one = data.utterances[index];
    const rest = [emotions(one), score(one, map.modality), one.id].filter(Boolean).join(" \u00b7 ");
    for (const other of maps) {
      other.ring.setAttribute("cx", other.points[index].x);
      other.ring.setAttribute("cy", other.points[index].y);
      other.plane.setAttribute("aria-valuenow", index + 1);
      other.plane.setAttribute("aria-valuetext", `${one.text || "no words"}: ${rest}`);
      if (other !== map) other.readout.replaceChildren();
    }
    const words = document.createElement("b");
    words.textContent = one.text || "(no words)";
    map.readout.replaceChildren(words, rest); // text nodes: nothing of a corpus is markup
  };
  const clear = () => {
    for (const map of maps) {
      map.readout.replaceChildren();
      map.ring.setAttribute("cx", -20);
    }
  };
  // The point for which `cost` is least; -1 where it is infinite for all.
  const nearest = (map, x, y, cost) => {
    let best = -1;
    let least = Infinity;
    map.points.forEach((point, index) => {
      const distance = cost(index, point.x - x, point.y - y);
      if (distance < least) [best, least] = [index, distance];
    });
    return best;
  };
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  for (const map of maps) {
    const point = (event) => {
      const box = map.svg.getBoundingClientRect();
      const scale = 400 / Math.min(box.width, box.height); // the picture is centred in its box
      const x = 200 + (event.clientX - box.left - box.width / 2) * scale;
      const y = 200 + (event.clientY - box.top - box.height / 2) * scale;
      const index = nearest(map, x, y, (other, dx, dy) => dx * dx + dy * dy);
      if (index >= 0 && Math.hypot(map.points[index].x - x, map.points[index].y - y) < 20) {
        show(map, index);
      }
    };
    map.plane.addEventListener("pointermove", point);
    map.plane.addEventListener("pointerdown", point);
    map.plane.addEventListener("focus", () => {
      if (map.plane.matches(":focus-visible")) show(map, current);
    });
    map.plane.addEventListener("keydown", (event) => {
      const count = map.points.length;
      const here = map.points[current];
      let next = -1;
      if (event.key in directions) {
        const [right, down] = directions[event.key];
        next = nearest(map, here.x, here.y, (index, dx, dy) => {
          const along = dx * right + dy * down;
          const aside = Math.abs(dx * down) + Math.abs(dy * right);
          return index !== current && along > 0 && along >= aside / 2 ? along + 2 * aside : Infinity;
        });
        if (next < 0) next = current;
      } else if (event.key === "PageDown") next = (current + 1) % count;
      else if (event.key === "PageUp") next = (current + count - 1) % count;
      else if (event.key === "Home") next = 0;
      else if (event.key === "End") next = count - 1;
      else if (event.key === "Escape") clear();
      if (next < 0) return;
      event.preventDefault();
      show(map, next);
    });
  }
})();
