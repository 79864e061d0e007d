(() => {
  "use strict";
  const root = document.currentScript.closest(".nelbo-forward");
  const n = JSON.parse(root.querySelector("[data-fwd-numbers]").textContent);
  const slider = root.querySelector("#fwd-t");
  const places = n.alpha.length - 1;
  const all = (selector) => [...root.querySelectorAll(selector)];
  const minus = (text) => text.replace("-", "\u2212");
  const say = (key, text) => all(`[data-fwd="${key}"]`).forEach((e) => { e.textContent = minus(text); });
  const steps = () => +root.querySelector("input[name=fwd-steps]:checked").value;
  const tall = Math.max(...n.density.flat()) * 1.06;

  const curve = (heights) => {
    const last = heights.length - 1;
    return "M0 300 " + heights.map((h, i) => `L${(1000 * i / last).toFixed(1)} ${(300 - 300 * h / tall).toFixed(1)}`).join(" ") + " L1000 300 Z";
  };

  function now() {
    const k = +slider.value, t = k / places, T = steps(), chain = n.chains[T];
    const j = Math.min(Math.floor(t * T), T - 1);
    root.querySelector(".fwd-now").setAttribute("d", curve(n.density[k]));
    all(".fwd-marker").forEach((m) => { m.setAttribute("x1", 1000 * t); m.setAttribute("x2", 1000 * t); });
    all(".fwd-bars rect").forEach((bar, i) => bar.classList.toggle("fwd-on", i === j));
    say("t", t.toFixed(2));
    say("alpha", n.alpha[k].toFixed(3));
    say("sigma", n.sigma[k].toFixed(3));
    say("snr", String(+n.snr[k].toPrecision(3)));
    say("logsnr", n.logsnr[k].toFixed(2));
    say("name", `step ${j + 1} of ${T}`);
    say("nats", `${chain[j].toFixed(3)} nats`);
    slider.setAttribute("aria-valuetext", minus(`t = ${t.toFixed(2)}, log SNR ${n.logsnr[k].toFixed(2)}, step ${j + 1} of ${T} costs ${chain[j].toFixed(3)} nats`));
  }

  function chain() {
    const T = steps(), nats = n.chains[T];
    const bars = root.querySelector(".fwd-bars");
    bars.replaceChildren(...nats.map((value, i) => {
      const bar = document.createElementNS(bars.namespaceURI, "rect");
      const height = 300 * value * T / n.highest;
      for (const [name, v] of Object.entries({ x: 1000 * i / T, width: 1000 / T, y: 300 - height, height })) bar.setAttribute(name, v.toFixed(2));
      return bar;
    }));
    const diffusion = nats.reduce((a, b) => a + b, 0), bound = n.reconstruction + diffusion + n.prior;
    const rows = {
      diffusion: [diffusion, n.reconstruction, n.reconstruction + diffusion], prior: [n.prior, bound - n.prior, bound],
      bound: [bound, 0, bound], gap: [bound - n.entropy, n.entropy, bound],
    };
    for (const [key, [value, low, top]] of Object.entries(rows)) {
      say(key, value.toFixed(3));
      const bar = root.querySelector(`[data-fwd-bar="${key}"]`);
      bar.setAttribute("x", (100 * low).toFixed(1));
      bar.setAttribute("width", (100 * (top - low)).toFixed(1));
    }
    now();
  }

  slider.addEventListener("input", now);
  all("input[name=fwd-steps]").forEach((choice) => choice.addEventListener("change", chain));
  all(".fwd-over-t svg").forEach((plot) => {
    const move = (event) => {
      const box = plot.getBoundingClientRect();
      slider.value = Math.round(places * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
      now();
    };
    plot.addEventListener("pointerdown", (event) => { plot.setPointerCapture(event.pointerId); move(event); });
    plot.addEventListener("pointermove", (event) => { if (plot.hasPointerCapture(event.pointerId)) move(event); });
  });
  chain();
})();
