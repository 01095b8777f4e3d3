// The map: the nearest dot tells its title, its first code stands out, a search marks titles.
(() => {
  const svg = document.getElementById('map'), tip = document.getElementById('tip');
  const points = JSON.parse(document.getElementById('points').textContent);
  const find = document.getElementById('find'), told = document.getElementById('told');
  const of = new Map([...svg.querySelectorAll('path[data-code]')].map(p => [+p.dataset.code, p]));
  const found = svg.querySelector('path.found');
  let lit = null;

  function light(code) {
    if (lit === code) return;
    of.get(lit)?.classList.remove('on');
    of.get(code)?.classList.add('on');
    svg.classList.toggle('dim', code !== null);
    lit = code;
  }
  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < points.x.length; i++) {
      const dx = points.x[i] - x, dy = points.y[i] - y, far = dx * dx + dy * dy;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }
  function hide() { tip.hidden = true; light(null); }
  function show(event) {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const i = nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, 22 * scale);
    if (i < 0) return hide();
    light(points.code[i]);
    tip.replaceChildren(points.title[i], document.createElement('br'));
    const small = document.createElement('small');
    const events = points.events[i];
    small.textContent = `first code a${points.code[i]}, ${events} event${events === 1 ? '' : 's'}`;
    tip.append(small);
    tip.hidden = false;
    const x = points.x[i] / scale, y = points.y[i] / scale;
    tip.style.left = Math.max(0, Math.min(x + 12, box.width - tip.offsetWidth)) + 'px';
    tip.style.top = (y + 14 + tip.offsetHeight > box.height ? y - tip.offsetHeight - 12 : y + 14) + 'px';
  }
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') hide(); });
  find.addEventListener('input', () => {
    const wanted = find.value.trim().toLowerCase(), hits = [];
    if (wanted) points.title.forEach((title, i) => { if (title.toLowerCase().includes(wanted)) hits.push(i); });
    found.setAttribute('d', hits.map(i => `M${points.x[i]} ${points.y[i]}h0`).join(''));
    const codes = new Set(hits.map(i => points.code[i]));
    told.textContent = wanted ? `${hits.length} item(s) under ${codes.size} first code(s)` : '';
  });
})();
