"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const plotOptions = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const cameras = {
    side: { eye: { x: 0.2, y: -1.6, z: 0.3 }, up: { x: 0, y: 0, z: 1 }, projection: { type: "orthographic" } },
    top: { eye: { x: 0, y: 0, z: 1.6 }, up: { x: 0, y: 1, z: 0 }, projection: { type: "orthographic" } },
  };
  let model = 0;

  // === systems ===

  const composition = (split, i) => {
    const { adsorbate, elements, natoms } = page.splits[split];
    const names = [adsorbate[i], elements[i]].filter((name) => name);
    return `${names.join(" on ")}, ${natoms[i]} atoms`;
  };
  const energy = (split, i, of = model) => page.splits[split].energy[of][i];
  const label = (split, i) => page.splits[split].label[i];
  const error = (split, i, of = model) => 1000 * (energy(split, i, of) - label(split, i));

  // === plots ===

  // Plotly reads some HTML in what the pointer shows; names are shown as they are.
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

  const draw = (id, figure) => Plotly.react(id, figure.data, figure.layout, plotOptions);

  const hoverFacts = (of) => Object.fromEntries(Object.entries(page.splits).map(([split, { ids, title, std }]) => [
    split,
    ids.map((name, i) => [
      escaped(name), escaped(title), escaped(composition(split, i)),
      label(split, i), energy(split, i, of), error(split, i, of), std && std[i],
    ]),
  ]));

  const drawSystems = (id, figure, facts) => {
    for (const trace of figure.data) if (trace.meta) trace.customdata = facts[trace.meta];
    draw(id, figure).then((plot) => {
      plot.removeAllListeners("plotly_click");
      plot.on("plotly_click", ({ points: [point] }) => {
        if (point.data.meta) showStructure(point.data.meta, point.pointNumber);
      });
    });
  };

  // === table of the largest errors ===

  const columns = [
    { name: "id", text: true, value: ({ split, i }) => page.splits[split].ids[i] },
    { name: "split", text: true, value: ({ split }) => page.splits[split].title },
    { name: "adsorbate", text: true, value: ({ split, i }) => page.splits[split].adsorbate[i] },
    { name: "slab", text: true, value: ({ split, i }) => page.splits[split].elements[i] },
    { name: "atoms", value: ({ split, i }) => page.splits[split].natoms[i] },
    { name: "reference, eV", digits: 3, value: ({ split, i }) => label(split, i) },
    { name: "predicted, eV", digits: 3, value: ({ split, i }) => energy(split, i) },
    { name: "error, meV", digits: 0, value: ({ split, i }) => error(split, i) },
  ];
  const size = { name: "size of the error", value: ({ split, i }) => Math.abs(error(split, i)) };
  let order = { column: size, sign: -1 };

  const systems = Object.entries(page.structures).flatMap(([split, drawn]) =>
    Object.keys(drawn).map((i) => ({ split, i: Number(i) })));

  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);

  const fillTable = () => {
    const split = element("split").value;
    const words = element("search").value.toLowerCase().split(/\s+/).filter((word) => word);
    const rows = systems.filter((system) => {
      const text = columns.filter((column) => column.text).map((column) => column.value(system)).join(" ").toLowerCase();
      return (!split || system.split === split) && words.every((word) => text.includes(word));
    });
    rows.sort((a, b) => order.sign * compare(order.column.value(a), order.column.value(b)));
    element("found").textContent = `${rows.length} of ${systems.length} systems`;
    document.querySelectorAll("#worst thead th").forEach((cell, position) => {
      const sorted = order.column === columns[position];
      cell.setAttribute("aria-sort", sorted ? (order.sign > 0 ? "ascending" : "descending") : "none");
      cell.querySelector("button").textContent = columns[position].name + (sorted ? (order.sign > 0 ? " ▲" : " ▼") : "");
    });
    element("worst").tBodies[0].replaceChildren(...rows.map(tableRow));
  };

  const tableRow = (system) => {
    const row = document.createElement("tr");
    row.tabIndex = 0;
    for (const { text, digits = 0, value } of columns) {
      const cell = row.insertCell();
      const content = value(system);
      cell.textContent = text ? content : content.toFixed(digits);
      if (text) cell.className = "text";
    }
    const show = () => {
      document.querySelectorAll("#worst .shown").forEach((other) => other.classList.remove("shown"));
      row.classList.add("shown");
      showStructure(system.split, system.i);
    };
    row.addEventListener("click", show);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(); });
    return row;
  };

  const makeHeadings = () => {
    for (const column of columns) {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      button.type = "button";
      if (column.text) cell.className = "text";
      button.addEventListener("click", () => {
        const sign = order.column === column ? -order.sign : column.text ? 1 : -1;
        order = { column, sign };
        fillTable();
      });
      cell.append(button);
      document.querySelector("#worst thead tr").append(cell);
    }
  };

  // === structures ===

  const RINGS = 9, SECTORS = 14;

  // Balls for all atoms in one mesh: rows of points from pole to pole, two triangles between four neighbours.
  const balls = ({ symbols, tags }, positions) => {
    const mesh = { x: [], y: [], z: [], i: [], j: [], k: [], vertexcolor: [], text: [] };
    const tagged = tags.includes(2);
    symbols.forEach((symbol, atom) => {
      const { colour, radius } = page.elements[symbol];
      const slab = tagged && tags[atom] !== 2;
      const size = radius * (slab ? 0.8 : 0.6);
      const start = mesh.x.length;
      for (let ring = 0; ring <= RINGS; ring++) {
        const polar = (Math.PI * ring) / RINGS;
        for (let sector = 0; sector < SECTORS; sector++) {
          const around = (2 * Math.PI * sector) / SECTORS;
          mesh.x.push(positions[atom][0] + size * Math.sin(polar) * Math.cos(around));
          mesh.y.push(positions[atom][1] + size * Math.sin(polar) * Math.sin(around));
          mesh.z.push(positions[atom][2] + size * Math.cos(polar));
          mesh.vertexcolor.push(slab && tags[atom] === 0 ? paler(colour) : colour);
          mesh.text.push(`${symbol} (atom ${atom})`);
        }
      }
      for (let ring = 0; ring < RINGS; ring++) {
        for (let sector = 0; sector < SECTORS; sector++) {
          const one = start + ring * SECTORS + sector;
          const next = start + ring * SECTORS + ((sector + 1) % SECTORS);
          mesh.i.push(one, next);
          mesh.j.push(one + SECTORS, one + SECTORS);
          mesh.k.push(next, next + SECTORS);
        }
      }
    });
    const lighting = { ambient: 0.6, diffuse: 0.6, specular: 0.15, roughness: 0.6, fresnel: 0.05 };
    return { type: "mesh3d", ...mesh, hoverinfo: "text", lighting, flatshading: false };
  };

  const paler = (colour) => "#" + [1, 3, 5]
    .map((at) => Math.round((parseInt(colour.slice(at, at + 2), 16) + 255) / 2).toString(16).padStart(2, "0"))
    .join("");

  const lines = (pairs, line) => {
    const along = (axis) => pairs.flatMap(([a, b]) => [a[axis], b[axis], null]);
    return { type: "scatter3d", mode: "lines", x: along(0), y: along(1), z: along(2), line, hoverinfo: "skip" };
  };

  const corner = (cell, n) => [0, 1, 2].map((axis) => cell.reduce((sum, row, k) => sum + n[k] * row[axis], 0));
  const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => [n & 1, (n >> 1) & 1, n >> 2]);

  const edges = (cell) => corners.flatMap((n) => [0, 1, 2].filter((k) => !n[k]).map((k) =>
    [corner(cell, n), corner(cell, n.map((other, m) => (m === k ? 1 : other)))]));

  // Axes of one scale for both structures. Most of a slab's cell is vacuum, so its height is that of the atoms.
  const axes = ({ cell, initial, relaxed }) => {
    const atoms = [...initial.positions, ...(relaxed ? relaxed.positions : [])];
    const ranges = [0, 1, 2].map((axis) => {
      const places = [...atoms, ...(cell && axis < 2 ? corners.map((n) => corner(cell, n)) : [])].map((at) => at[axis]);
      return [Math.min(...places) - 1.5, Math.max(...places) + 1.5];
    });
    const lengths = ranges.map(([low, high]) => high - low);
    const [x, y, z] = lengths.map((length) => (1.3 * length) / Math.max(...lengths));
    const axis = (k) => ({ visible: false, range: ranges[k] });
    return { xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), aspectmode: "manual", aspectratio: { x, y, z } };
  };

  const drawStructure = (id, structure) => {
    const { positions, bonds } = structure[id];
    const traces = [balls(structure, positions)];
    traces.push(lines(bonds.map(([a, b]) => [positions[a], positions[b]]), { color: "#555", width: 6 }));
    if (structure.cell) traces.push(lines(edges(structure.cell), { color: "#aaa", width: 1.5 }));
    const layout = {
      scene: { ...axes(structure), camera: { ...cameras.side }, dragmode: "orbit" },
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
    };
    return Plotly.newPlot(id, traces, layout, { displayModeBar: false, responsive: true });
  };

  const views = ["initial", "relaxed"];

  const sameView = (one, other) => ["eye", "up", "center"].every((key) =>
    ["x", "y", "z"].every((axis) => Math.abs((one[key]?.[axis] ?? 0) - (other[key]?.[axis] ?? 0)) < 1e-6));

  // Turning one structure turns the other, whose turn then comes here, too, and ends here.
  const turn = (camera) => views.map(element)
    .filter((plot) => plot.layout?.scene && !sameView(plot.layout.scene.camera, camera))
    .forEach((plot) => Plotly.relayout(plot, { "scene.camera": camera }));

  const clearStructures = () => views.forEach((id) => Plotly.purge(id));

  const showStructure = (split, i) => {
    const { ids, title, record, energy: energies } = page.splits[split];
    element("structure").hidden = false;
    element("structure-title").textContent = ids[i];
    element("structure-facts").textContent = `${composition(split, i)}; ${title}, record ${record[i]}`;
    const rows = [["reference", label(split, i).toFixed(3), ""]];
    page.models.forEach((name, k) => {
      rows.push([name, energies[k][i].toFixed(3), (1000 * (energies[k][i] - label(split, i))).toFixed(0)]);
    });
    element("structure-energies").tBodies[0].replaceChildren(...rows.map((texts) => {
      const row = document.createElement("tr");
      for (const text of texts) row.insertCell().textContent = text;
      return row;
    }));
    const structure = (page.structures[split] || {})[i];
    clearStructures();
    for (const id of views) {
      const drawn = structure !== undefined && structure[id] !== undefined;
      element(id).hidden = element(`${id}-title`).hidden = !drawn;
      if (drawn) drawStructure(id, structure).then((plot) => {
        plot.on("plotly_relayout", (change) => { if (change["scene.camera"]) turn(change["scene.camera"]); });
      });
    }
    element("structure-note").textContent = noteOn(structure, split, i);
    document.querySelector(".views").hidden = structure === undefined;
  };

  const noteOn = (structure, split, i) => {
    if (structure === undefined) {
      return `This page contains the structures of the ${page.most} systems of each split with the largest errors; ` +
        "--worst N writes more of them.";
    }
    const { moved, symbols } = structure;
    const largest = moved ? `Relaxation moves ${symbols[moved.atom]} (atom ${moved.atom}) most, by ${moved.length.toFixed(2)} Å. ` : "";
    return `${largest}Drag to turn, scroll to zoom.`;
  };

  const hideStructure = () => {
    element("structure").hidden = true;
    clearStructures();
  };

  // === start ===

  const drawModel = () => {
    const facts = hoverFacts(model);
    for (const id of ["parity", "errors"]) drawSystems(id, page.figures[`${id}-${model}`], facts);
    fillTable();
  };

  makeHeadings();
  drawModel();
  for (const id of Object.keys(page.figures)) if (element(id)) draw(id, page.figures[id]);
  if (page.figures.deviations) drawSystems("deviations", page.figures.deviations, hoverFacts(page.ensemble));
  element("split").addEventListener("change", fillTable);
  element("search").addEventListener("input", fillTable);
  if (element("model")) {
    element("model").addEventListener("change", (event) => { model = Number(event.target.value); drawModel(); });
  }
  document.querySelectorAll("[data-view]").forEach((button) =>
    button.addEventListener("click", () => turn(cameras[button.dataset.view])));
  element("close").addEventListener("click", hideStructure);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideStructure(); });
})();
