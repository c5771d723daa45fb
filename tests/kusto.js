// Reads {tables, queries} from standard input; writes what Microsoft's parser of Kusto finds wrong with each query, as JSON.
// The two files of the package are plain scripts that leave their names in the global scope, so they are run there.
const fs = require("fs"), path = require("path"), vm = require("vm");
const folder = path.join(process.env.BROOKSIDE_NODE_PACKAGES, "node_modules", "@kusto", "language-service-next");
for (const name of ["bridge.min.js", "Kusto.Language.Bridge.min.js"])
  vm.runInThisContext(fs.readFileSync(path.join(folder, name), "utf8"), { filename: name });
const { tables, queries } = JSON.parse(fs.readFileSync(0, "utf8"));
const symbols = Object.entries(tables).map(([name, schema]) => new Kusto.Language.Symbols.TableSymbol.$ctor7(name, schema, ""));
const database = new Kusto.Language.Symbols.DatabaseSymbol.$ctor3("logs", "logs", symbols, false);
const globals = Kusto.Language.GlobalState.Default.WithDatabase(database);
const said = queries.map((query) => {
  const found = Kusto.Language.KustoCode.ParseAndAnalyze(query, globals).GetDiagnostics();
  const lines = [];
  for (let place = 0; place < found.Count; place++) lines.push(found.getItem(place).Message);
  return lines;
});
process.stdout.write(JSON.stringify(said));
