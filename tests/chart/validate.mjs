// Holds manifests against Kubernetes' schemas (values) and types (unknown keys, of which the schemas say nothing).
// stdin: [object...]; stdout: [[complaint...]...], one list for each of them.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const require = createRequire(import.meta.url);
const here = path.dirname(fileURLToPath(import.meta.url));
const objects = JSON.parse(readFileSync(0, 'utf8'));

function modelModule({ apiVersion }) {
  if (apiVersion.startsWith('monitoring.coreos.com/'))
    return `@kubernetes-models/prometheus-operator/${apiVersion}`;
  return `kubernetes-models/${apiVersion}`;
}

const complaints = objects.map((object) => {
  try {
    const Model = require(modelModule(object))[object.kind];
    new Model(object).validate();
    return [];
  } catch (error) {
    return [String(error.message ?? error)];
  }
});

// One literal a manifest: TypeScript refuses keys that a literal's type does not have.
const lines = objects.map((object) =>
  `import { I${object.kind} as T } from '${modelModule(object)}'; export const manifest: T = ${JSON.stringify(object)};`);
const names = lines.map((_, index) => path.join(here, `manifest-${index}.ts`));
const options = {
  noEmit: true, strict: true, strictNullChecks: false, skipLibCheck: true, types: [],
  target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS, moduleResolution: ts.ModuleResolutionKind.Node10,
  ignoreDeprecations: '5.0',
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists, readFile } = host;
const text = (name) => lines[names.indexOf(path.normalize(name))];
host.getSourceFile = (name, ...rest) =>
  text(name) === undefined ? getSourceFile(name, ...rest) : ts.createSourceFile(name, text(name), rest[0]);
host.fileExists = (name) => text(name) !== undefined || fileExists(name);
host.readFile = (name) => text(name) ?? readFile(name);
const program = ts.createProgram(names, options, host);
names.forEach((name, index) => {
  const source = program.getSourceFile(name);
  for (const found of [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)])
    complaints[index].push(ts.flattenDiagnosticMessageText(found.messageText, '\n'));
});
console.log(JSON.stringify(complaints));
