// Show the cases of this page in NiiVue. Each case is a JSON script of class "viewer-case".
(async () => {
  const box = document.getElementById("viewer");
  const part = (name) => box.querySelector(`[data-part="${name}"]`);
  const cases = [...document.querySelectorAll("script.viewer-case")];
  const show = (text) => { part("message").textContent = text; };
  if (!document.createElement("canvas").getContext("webgl2") || !self.DecompressionStream) {
    show("This browser has no WebGL 2, so the scans are shown by the pictures alone.");
    return;
  }

  async function runLibrary() {
    const packed = Uint8Array.from(atob(document.getElementById("viewer-library").textContent), (c) => c.charCodeAt(0));
    const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(plain).text();
    document.head.append(script);
  }

  await runLibrary();
  const { Niivue, NVImage, SLICE_TYPE, DRAG_MODE } = self.niivue;
  const nv = new Niivue({
    sliceType: SLICE_TYPE.AXIAL, isRadiologicalConvention: true, isNearestInterpolation: true, crosshairWidth: 0,
    dragAndDropEnabled: false, dragMode: DRAG_MODE.windowing, dragModePrimary: DRAG_MODE.none, logLevel: "silent",
    loadingText: "", showAllOrientationMarkers: true, isAntiAlias: false,
    viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
  });
  await nv.attachToCanvas(part("canvas"));
  let scan, at = 0, slices = 1;
  const on = { scan: true }; // by the name of a layer, for all scans

  const choices = part("case");
  for (const script of cases) choices.add(new Option(script.dataset.name));

  function colormap(colour) {
    const [r, g, b] = colour.match(/\w\w/g).map((hex) => parseInt(hex, 16));
    const name = `from ${colour}`;
    nv.addColormap(name, { R: [r, r], G: [g, g], B: [b, b], A: [0, 255], I: [0, 255] });
    return name;
  }

  function layerColormap(layer) {
    return layer.kind === "mask" ? colormap(layer.colour) : layer.kind === "probability" ? "plasma" : "gray";
  }

  function opacity(layer) {
    on[layer.name] ??= layer.kind === "mask";
    return on[layer.name] ? { scan: 1, mask: 0.5, probability: 0.6 }[layer.kind] : 0;
  }

  function toggle(layer, index) {
    const [label, tick, swatch] = ["label", "input", "i"].map((tag) => document.createElement(tag));
    tick.type = "checkbox";
    tick.dataset.kind = layer.kind;
    tick.checked = on[layer.name];
    tick.onchange = () => {
      on[layer.name] = tick.checked;
      nv.setOpacity(index, opacity(layer));
    };
    swatch.className = layer.kind;
    swatch.style.backgroundColor = layer.colour || "";
    label.append(tick, swatch, layer.name);
    return label;
  }

  async function open(index) {
    at = (index + cases.length) % cases.length;
    const script = cases[at], opened = JSON.parse(script.textContent);
    choices.selectedIndex = at;
    const volumes = await Promise.all(opened.layers.map((layer, i) => NVImage.loadFromBase64({
      base64: layer.nifti, name: `${i}.nii.gz`, colormap: layerColormap(layer), opacity: opacity(layer),
      cal_min: layer.window[0], cal_max: layer.window[1],
    })));
    if (script !== cases[at]) return; // another case was asked for meanwhile
    scan = opened;
    while (nv.volumes.length) nv.removeVolumeByIndex(nv.volumes.length - 1);
    nv.opts.isOrientationTextVisible = scan.oriented;
    volumes.forEach((volume, i) => {
      volume.opacity = opacity(opened.layers[i]); // a layer may have been switched while the volumes were read
      nv.addVolume(volume);
    });
    part("layers").replaceChildren(...scan.layers.map(toggle).slice(1));
    part("text").textContent = scan.text;
    slices = volumes[0].dims[3];
    part("slice").max = slices;
    setWindow(...scan.layers[0].window);
    goTo(scan.slice);
  }

  function goTo(number) {
    const slice = Math.min(Math.max(number, 1), slices);
    nv.scene.crosshairPos = [0.5, 0.5, (slice - 0.5) / slices];
    nv.drawScene();
    showSlice(slice);
  }
  const slice = () => Math.round(nv.scene.crosshairPos[2] * slices + 0.5);

  function showSlice(number) {
    part("slice").value = number;
    part("slice-text").textContent = `slice ${number} of ${slices}`;
  }

  function setWindow(low, high) {
    part("low").value = low;
    part("high").value = Math.max(high, low + 1);
    const volume = nv.volumes[0];
    volume.cal_min = low;
    volume.cal_max = Math.max(high, low + 1);
    nv.updateGLVolume();
    showWindow();
  }

  function showWindow() {
    const [low, high] = scan.range, value = (grey) => +(low + (high - low) * grey / 255).toPrecision(3);
    part("window-text").textContent = `black ${value(nv.volumes[0].cal_min)}, white ${value(nv.volumes[0].cal_max)}`;
  }

  function press(kind) {
    const ticks = [...part("layers").querySelectorAll(`input[data-kind="${kind}"]`)];
    const turnOn = !ticks.some((tick) => tick.checked);
    for (const tick of ticks) if (tick.checked !== turnOn) tick.click();
  }

  nv.onLocationChange = () => showSlice(slice());
  nv.onIntensityChange = (volume) => {
    part("low").value = volume.cal_min;
    part("high").value = volume.cal_max;
    showWindow();
  };
  part("slice").oninput = (event) => goTo(+event.target.value);
  part("low").oninput = part("high").oninput = () => setWindow(+part("low").value, +part("high").value);
  part("reset").onclick = () => setWindow(...scan.layers[0].window);
  choices.onchange = () => open(choices.selectedIndex);
  const keys = {
    n: () => open(at + 1), b: () => open(at - 1), o: () => press("mask"), p: () => press("probability"),
    r: () => part("reset").click(), ".": () => goTo(slice() + 1), ",": () => goTo(slice() - 1),
  };
  document.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) keys[event.key.toLowerCase()]?.();
  }, true);
  // NiiVue's own keys stay unused.
  for (const type of ["keydown", "keyup"]) box.addEventListener(type, (event) => event.stopPropagation(), true);
  part("controls").hidden = false;
  await open(0);
  show("");
  box.dataset.ready = "yes";
  self.viewer = nv;
})().catch((error) => {
  document.querySelector('#viewer [data-part="message"]').textContent =
    `The viewer does not work in this browser (${error.message}). Look at the pictures.`;
});
