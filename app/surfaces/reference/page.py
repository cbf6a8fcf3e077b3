"""The page at `/docs`: one document with its own style and script, and nothing from anywhere else."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 0.875rem/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 4px; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
details { margin: 0.5rem 0; border: 1px solid #8886; border-radius: 4px; padding: 0.5rem 0.75rem; }
summary { cursor: pointer; }
ul { padding-left: 1.25rem; }
table { border-collapse: collapse; }
td { padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600; }
.note { opacity: 0.75; }
.fault { color: #c00; }
"""

SCRIPT: Final = """
'use strict';
const DEEPEST = 8;
const BOUNDS = ['minLength', 'maxLength', 'minimum', 'maximum', 'minItems', 'maxItems', 'minProperties', 'pattern',
  'default'];
const form = document.getElementById('ask');
const field = document.getElementById('credential');
const said = document.getElementById('said');
const reference = document.getElementById('reference');
let whole = {};

// Text only ever becomes text: nothing that the document says is read as markup.
function make(name, text, ...parts) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...parts);
  return node;
}

function classed(name, node) {
  node.className = name;
  return node;
}

function named(schema) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split('/').slice(1).reduce((at, step) => (at || {})[step], whole) || {};
}

function kind(schema) {
  const own = named(schema);
  const choices = own.anyOf || own.oneOf || own.allOf;
  if (choices) return choices.map(kind).join(' or ');
  if (own.enum) return own.enum.map((one) => JSON.stringify(one)).join(' | ');
  if ('const' in own) return JSON.stringify(own.const);
  if (own.type === 'array') return 'list of ' + kind(own.items);
  return [own.type || 'any JSON', own.format].filter(Boolean).join(', ');
}

function bounds(schema) {
  return BOUNDS.filter((one) => one in schema).map((one) => one + ' ' + JSON.stringify(schema[one])).join(', ');
}

function shape(schema, depth) {
  const own = named(schema);
  if (depth > DEEPEST) return make('span', '...');
  const inner = own.anyOf || own.oneOf || own.allOf || (own.type === 'array' ? [own.items] : null);
  if (inner) return make('div', '', ...inner.map((one) => shape(one, depth + 1)));
  const list = make('ul');
  for (const [name, member] of Object.entries(own.properties || {})) {
    const resolved = named(member);
    const needed = (own.required || []).includes(name) ? ', required' : '';
    const item = make('li', '', make('code', name), ' ', classed('note', make('span', kind(member) + needed)));
    const limits = bounds(resolved);
    if (limits) item.append(' ', classed('note', make('span', '(' + limits + ')')));
    if (resolved.description) item.append(make('div', resolved.description));
    item.append(shape(member, depth + 1));
    list.append(item);
  }
  return list.childElementCount ? list : make('span');
}

function content(media) {
  const parts = [];
  for (const [type, said] of Object.entries(media || {})) {
    const what = classed('note', make('span', kind(said.schema)));
    parts.push(make('p', '', make('code', type), ' ', what), shape(said.schema, 0));
    if (said.example !== undefined) parts.push(make('pre', JSON.stringify(said.example, null, 2)));
  }
  return parts;
}

function parameters(list) {
  const table = make('table');
  for (const one of list) {
    const what = one.in + ', ' + kind(one.schema) + (one.required ? ', required' : '');
    const cells = [make('td', '', make('code', one.name)), make('td', what), make('td', one.description || '')];
    table.append(make('tr', '', ...cells));
  }
  return table;
}

function operation(method, path, told) {
  const verb = classed('method', make('code', method.toUpperCase()));
  const title = make('summary', '', verb, make('code', path), ' ', make('span', told.summary || ''));
  const box = make('details', '', title);
  if (told.deprecated) box.append(classed('fault', make('p', 'deprecated')));
  if (told.description) box.append(make('p', told.description));
  box.append(classed('note', make('p', told.security ? 'needs a credential' : 'needs no credential')));
  if (told.parameters) box.append(make('h4', 'Parameters'), parameters(told.parameters));
  if (told.requestBody) box.append(make('h4', 'Body'), ...content(told.requestBody.content));
  for (const [status, answer] of Object.entries(told.responses || {})) {
    const line = make('summary', '', make('code', status), ' ', make('span', answer.description || ''));
    const one = make('details', '', line);
    const headers = Object.entries(answer.headers || {});
    if (headers.length) one.append(parameters(headers.map(([name, header]) => ({ name, in: 'header', ...header }))));
    one.append(...content(answer.content));
    box.append(one);
  }
  return box;
}

function show(told) {
  whole = told;
  const groups = new Map();
  for (const [path, methods] of Object.entries(told.paths || {})) {
    for (const [method, one] of Object.entries(methods)) {
      const group = (one.tags || ['other'])[0];
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(operation(method, path, one));
    }
  }
  reference.replaceChildren(make('p', told.info.title + ' ' + told.info.version + ', OpenAPI ' + told.openapi));
  for (const [group, operations] of groups) reference.append(make('h2', group), ...operations);
}

async function load(credential) {
  said.textContent = '';
  const headers = credential ? { Authorization: 'Bearer ' + credential } : {};
  try {
    const answer = await fetch('openapi.json', { headers, cache: 'no-store', credentials: 'omit' });
    const told = await answer.json();
    if (answer.ok) show(told);
    else said.textContent = told.detail || String(answer.status);
  } catch (error) {
    said.textContent = String(error);
  }
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  load(field.value.trim());
});
"""

PAGE: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>Mutation Firewall: the HTTP interface</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Mutation Firewall: the HTTP interface</h1>
<p>What <code>/openapi.json</code> says, which any valid credential may read. It is sent to this server
alone, and kept nowhere.</p>
<form id="ask">
<label for="credential">API key or token</label>
<input id="credential" type="password" size="60" autocomplete="off" spellcheck="false">
<button>Show</button>
</form>
<p id="said" class="fault" role="status"></p>
<main id="reference"></main>
<noscript><p>Without scripts: <code>curl -H "Authorization: Bearer $KEY" .../openapi.json</code></p></noscript>
<script>{SCRIPT}</script>
</body>
</html>
"""
