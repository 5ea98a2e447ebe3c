/** A run's features as a page has them: the columns of all latents, what people said, and a query over both. */
import {
  parseQuery,
  remarksOf,
  runQuery,
  valuesOf,
  type Likeness,
  type Query,
  type Remark,
} from "../src/analysis/feature-query.ts";
import { TOKEN_SEPARATOR } from "../src/analysis/feature-columns.ts";
import type { PackedTable } from "../src/packed-table.ts";
import { api, ask, table } from "./api.ts";

export interface Row {
  latent: number;
  density: number;
  firings: number;
  max: number;
  mean: number;
  auc: number;
  f1: number;
  rule: number;
  selectivity: number;
  kinds: number;
  label: string;
  tokens: string[];
  remark: (Remark & { groups: string[] }) | undefined;
}

export interface Found {
  rows: Int32Array;
  query: Query;
  milliseconds: number;
  /** A field that latents have only because of a like: or fires: clause. */
  extra?: { field: "like" | "x"; values: ArrayLike<number> };
}

const kept = new Map<string, Promise<PackedTable>>();

/** Columns are read once for a run; `isStale` reads them again. */
function columnsOf(run: string, isStale: boolean): Promise<PackedTable> {
  if (isStale) kept.delete(run);
  let known = kept.get(run);
  if (!known) {
    known = table(`runs/${encodeURIComponent(run)}/columns`);
    known.catch(() => kept.delete(run));
    kept.set(run, known);
    if (kept.size > 3) kept.delete(kept.keys().next().value!);
  }
  return known;
}

export class FeatureList {
  readonly run: string;
  table = $state.raw<PackedTable>();
  remarks = $state.raw<Map<number, Remark & { groups: string[] }>>(new Map());
  groups = $state.raw<{ id: string; name: string; latents: number[] }[]>([]);
  problem = $state("");
  /** For each text of a fires: clause. */
  #fires = new Map<string, Map<number, number>>();
  /** For the latent of each like: clause. */
  #like = new Map<number, Likeness>();

  constructor(run: string) {
    this.run = run;
  }

  async load(isStale = false): Promise<void> {
    try {
      this.table = await columnsOf(this.run, isStale);
      this.problem = "";
      await this.loadRemarks();
    } catch (error) {
      this.problem = (error as Error).message;
    }
  }

  async loadRemarks(): Promise<void> {
    const said = await ask(api.runs[":run"].annotations.$get({ param: { run: this.run } }));
    this.remarks = remarksOf(said.annotations, said.groups);
    this.groups = said.groups;
  }

  /** The latents that meet a query. @throws Error that says what cannot be read. */
  async find(text: string): Promise<Found> {
    const query = parseQuery(text);
    for (const clause of query.clauses) {
      if (clause.kind === "like" && !this.#like.has(clause.latent)) {
        const { meta, numbers } = await table(`runs/${encodeURIComponent(this.run)}/features/${clause.latent}/similar`); // prettier-ignore
        const cosines = numbers.cosine as Float32Array;
        this.#like.set(clause.latent, { cosines, least: meta.least as number });
      }
      if (clause.kind === "fires" && !this.#fires.has(clause.text)) {
        const { top } = await ask(api.runs[":run"].analyse.$post({ param: { run: this.run }, json: { text: clause.text } })); // prettier-ignore
        this.#fires.set(clause.text, new Map(top.map(({ latent, max }) => [latent, max])));
      }
    }
    const began = performance.now();
    const context = { remarks: this.remarks, fires: this.#fires, like: this.#like };
    const rows = runQuery(query, this.table!, context);
    const milliseconds = performance.now() - began;
    // What is known only because it was asked for.
    const asked = query.clauses.find(({ kind }) => kind === "like" || kind === "fires")?.kind;
    const field = asked === "like" ? "like" : asked === "fires" ? "x" : undefined;
    if (!field) return { rows, query, milliseconds };
    return { rows, query, milliseconds, extra: { field, values: valuesOf(field, this.table!, context) } }; // prettier-ignore
  }

  row(latent: number): Row {
    const { numbers: n, texts } = this.table!;
    const tokens = texts.tokens.at(latent);
    return {
      latent,
      ...{ density: n.density[latent], firings: n.firings[latent], max: n.max[latent] },
      ...{ mean: n.mean[latent], auc: n.auc[latent], f1: n.f1[latent], rule: n.rule[latent] },
      ...{ selectivity: n.selectivity[latent], kinds: n.kinds[latent] },
      label: texts.label.at(latent),
      tokens: tokens === "" ? [] : tokens.split(TOKEN_SEPARATOR),
      remark: this.remarks.get(latent),
    };
  }

  /** What it stands for in a few words. */
  name(latent: number): string {
    const { remark, label, tokens } = this.row(latent);
    return remark?.label || label || (tokens.length > 0 ? tokens.map((t) => `“${t.trim() || t}”`).join(" ") : "never fires"); // prettier-ignore
  }
}
