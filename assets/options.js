// Gradio names every radio button differently and its groups not at all: with one name a group, Tab stops once and the
// arrow keys choose; with a label, a screen reader says what is chosen.
const LABELS = { 'pf-level': 'Pyramid: finest grid', 'pf-top': 'Number of results' };

function unite(group) {
  for (const button of group.querySelectorAll('input[type=radio]')) {
    if (button.name !== group.id) button.name = group.id;
  }
}

function name() {
  const groups = Object.keys(LABELS).map((id) => document.getElementById(id));
  if (groups.some((group) => !group?.querySelector('input[type=radio]'))) return void setTimeout(name, 50);  // not there yet
  for (const group of groups) {
    group.setAttribute('role', 'radiogroup');
    group.setAttribute('aria-label', LABELS[group.id]);
    unite(group);
    // Gradio gives a button another name of its own whenever it is chosen or left, and another encoder has other levels.
    new MutationObserver(() => unite(group)).observe(group, { subtree: true, childList: true, attributeFilter: ['name'] });
  }
}
name();

// Whoever types another object's name need not delete the one that stands there. The click that gives the focus puts the
// caret somewhere, so the name is selected once more after it; at once, or the first letters typed would be selected too.
let entered = null;
document.addEventListener('focusin', ({ target }) => {
  entered = target.matches?.('#pf-object input') ? target : null;
  entered?.select();
});
document.addEventListener('click', ({ target }) => {
  if (target === entered) target.select();
  entered = null;
});
document.addEventListener('keydown', () => { entered = null; });

watch('value', () => window.patchifyFollow?.());  // the scores: with the results, all that an address says
