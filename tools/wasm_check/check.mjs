// Runs .tflite files in stock LiteRT.js under Node: outputs compared, calls timed.
//
// XNNPACK's sparse kernels are on in wasm, as they are on ARM, and off on x86: this is
// how a machine without an ARM processor sees what a phone will compute.
//
//   npm ci
//   node check.mjs [--rounds 9] [--ms 60] first.tflite other.tflite ...
//
// Prints one line of JSON per file: the median and the quartiles of a call in
// milliseconds, the speed-up over the first file, and the largest difference to the
// first file's outputs, as a share of its largest output. A file that does not run has
// an "error" instead. Files must agree in their inputs.
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

const {values, positionals: files} = parseArgs({
  allowPositionals: true,
  options: {
    rounds: {type: 'string', default: '9'},
    ms: {type: 'string', default: '60'},
  },
});
const rounds = Number(values.rounds);
const budget = Number(values.ms);

// The package loads its glue code as a web worker does; it is CommonJS in a package of
// modules, so it is evaluated by hand.
const require = createRequire(import.meta.url);
globalThis.self = globalThis;
globalThis.importScripts = (file) => {
  const module = {exports: {}};
  const code = fs.readFileSync(file, 'utf8');
  const names = ['module', 'exports', 'require', '__filename', '__dirname'];
  const run = new Function(...names, code + '\n;return module.exports;');
  globalThis.ModuleFactory =
      run(module, module.exports, require, file, path.dirname(file));
};
const {loadAndCompile, loadLiteRt, Tensor} = await import('@litertjs/core');
const here = path.dirname(fileURLToPath(import.meta.url));
await loadLiteRt(path.join(here, 'node_modules/@litertjs/core/wasm') + path.sep);

function draw(shape, seed) {
  let state = seed;
  const size = shape.reduce((a, b) => a * Math.abs(b), 1);
  return Float32Array.from({length: size}, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return state / 0x40000000 - 1;
  });
}

async function outputs(result) {
  const tensors = Array.isArray(result) ? result : Object.values(result);
  const arrays = [];
  for (const tensor of tensors) {
    const data = tensor.toTypedArray ? tensor.toTypedArray() : await tensor.data();
    arrays.push(Float32Array.from(data));
    tensor.delete();
  }
  return arrays;
}

function difference(expected, got) {
  let worst = 0;
  expected.forEach((array, i) => {
    let gap = 0;
    let top = 0;
    array.forEach((value, j) => {
      const other = got[i][j];
      gap = Number.isFinite(other) ? Math.max(gap, Math.abs(value - other)) : Infinity;
      top = Math.max(top, Math.abs(value));
    });
    worst = Math.max(worst, gap / (top || 1));
  });
  return worst;
}

function quantile(sorted, share) {
  return sorted[Math.round(share * (sorted.length - 1))];
}

let expected = null;
const runs = [];
for (const file of files) {
  const run = {file};
  runs.push(run);
  try {
    const model = await loadAndCompile(
        new Uint8Array(fs.readFileSync(file)), {accelerator: 'wasm'});
    const tensors = model.getInputDetails().map((detail, i) => {
      const shape = [...detail.shape].map(Math.abs);
      return new Tensor(draw(shape, 12345 + i), shape);
    });
    const got = await outputs(await model.run(tensors));
    expected ??= got;
    run.difference = difference(expected, got);
    run.call = async () => {
      const result = await model.run(tensors);
      (Array.isArray(result) ? result : Object.values(result)).forEach((t) => t.delete());
    };
  } catch (error) {
    run.error = String(error).slice(0, 300);
  }
}

const alive = runs.filter((run) => run.call);
for (const run of alive) {
  const start = performance.now();
  for (let i = 0; i < 3; i++) await run.call();
  run.count = Math.max(1, Math.round(budget / ((performance.now() - start) / 3)));
  run.taken = [];
}
for (let round = 0; round < rounds; round++) {
  for (const run of alive) {
    const start = performance.now();
    for (let i = 0; i < run.count; i++) await run.call();
    run.taken.push((performance.now() - start) / run.count);
  }
}
for (const {file, error, difference: apart, taken} of runs) {
  if (error) {
    console.log(JSON.stringify({file, error}));
    continue;
  }
  // Each round times the files one after the other, so ratios are taken within it.
  const ratios = taken.map((ms, i) => alive[0].taken[i] / ms).sort((a, b) => a - b);
  const sorted = [...taken].sort((a, b) => a - b);
  console.log(JSON.stringify({
    file,
    ms: quantile(sorted, 0.5),
    quartiles: [quantile(sorted, 0.25), quantile(sorted, 0.75)],
    speedup: quantile(ratios, 0.5),
    difference: Number.isFinite(apart) ? apart : 'Infinity',
  }));
}
process.exit(0);
