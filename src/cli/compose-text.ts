/** What `lens compose` found, in words and tables. */
import type { GraphNode } from "../analysis/composition-figure.ts";
import type { Composition, Pair, PairKindResult } from "../analysis/composition.ts";
import type { HookPoints } from "../analysis/codes.ts";
import type { Interval } from "../analysis/interval.ts";
import { shortNames } from "../analysis/layers-figure.ts";
import type { Link, Links } from "../analysis/links.ts";
import { TRIPLE_RULES, type Triple } from "../analysis/triple-measure.ts";
import type { TripleSearch } from "../analysis/triples.ts";
import { short } from "../readable.ts";
import { table } from "./terminal.ts";

/** A latent that something is said of; `sae` is its place in `autoencoders`. */
export type Node = Omit<GraphNode, "sae"> & { sae: number };

/** compose.json: nodes are latents, and the edges between them the pairs listed in `pairs` and `links`. */
export interface Composed {
  version: number;
  model: string;
  autoencoders: { id: string; name: string; hookPoints: HookPoints }[];
  tokens: number;
  window: number;
  seed: number;
  nodes: Node[];
  pairs: Composition;
  triples: TripleSearch;
  /** Places of the two in `autoencoders`, the earlier hook point first. */
  links?: Links & { from: number; to: number };
}

const SHOWN = 10;

export function composeText(composed: Composed): string {
  const { pairs, triples, links, nodes, window, autoencoders } = composed;
  const meanings = new Map(nodes.map(({ sae, latent, meaning }) => [`${sae} ${latent}`, meaning]));
  const namer = (sae: number) => (latent: number) => {
    const meaning = (meanings.get(`${sae} ${latent}`) ?? "").replaceAll("\n", "⏎");
    return meaning === "" ? String(latent) : `${latent} (${meaning})`;
  };
  const { rules, judged, positions, documents, selectionPositions } = pairs;
  const where = window === 1 ? "at the same position" : `within the same ${window} tokens`;
  const unit = window === 1 ? "positions" : `windows of ${window} tokens`;
  return [
    `${short(judged[0])} latents that fire ${rules.minFirings} times or more on either half of the text. ` +
      `Pairs are found on ${short(selectionPositions)} ${unit}; numbers are of ${short(positions)} others, in ${documents} documents, with 95 % intervals over documents.`,
    ...(judged[0] < 2 ? ["too few to say anything of pairs; read more (--tokens)"] : []),
    ...pairTexts(pairs, `fire together ${where}`, namer(0), namer(0)),
    ...tripleTexts(triples, namer(0)),
    ...(links ? linkTexts(links, autoencoders, namer(links.from), namer(links.to)) : []),
  ].join("\n\n");
}

type Name = (latent: number) => string;

function pairTexts(
  { together, apart, rules }: Pick<Composition, "together" | "apart" | "rules">,
  what: string,
  first: Name,
  second: Name,
): string[] {
  const row = ({ latents: [f, g], together, expected, turned, pmi, phi, conditional }: Pair) => [
    first(f),
    second(g),
    short(together),
    expected.toFixed(1),
    turned.toFixed(1),
    ranged(pmi, 2),
    ranged(phi, 2),
    conditional[0].value.toFixed(2),
    conditional[1].value.toFixed(2),
  ];
  const head = ["", "", "together", "expected", "turned", "PMI, bits", "phi", "P(2|1)", "P(1|2)"];
  const made = (title: string, result: PairKindResult, tested: string) => [
    `${title}: ${found(result, rules.fdr)}${tested}`,
    ...(result.listed.length > 0
      ? [table([title, ...head.slice(1)], result.listed.slice(0, SHOWN).map(row))]
      : []),
  ];
  return [
    ...made(what, together, ""),
    ...made("exclude each other", apart, `, those that should meet ${rules.minExpected} times or more`), // prettier-ignore
    "expected: if the two were independent; turned: if every document's firings were turned round, which leaves each latent its documents and runs. The tests are against the latter.",
  ];
}

function found({ tests, found, null: chance, listed, confirmed }: PairKindResult, fdr: number) {
  const checked =
    listed.length > 0
      ? `; of the first ${short(listed.length)}, ${short(confirmed)} are confirmed on the other documents (p ≤ 0.05; by chance ${short(Math.round(0.05 * listed.length))})`
      : "";
  return `${short(found)} of ${short(tests)} pairs with q ≤ ${fdr} (${short(chance)} in turned text)${checked}`;
}

function tripleTexts({ latents, pairs, and, either }: TripleSearch, name: Name): string[] {
  if (pairs === 0)
    return [
      `pairs that predict a third: none can be judged, since no two of ${short(latents)} latents meet ${TRIPLE_RULES.minSupport} times and fire as often without each other; read more (--tokens)`,
    ];
  const row = ({ latents: [a, b, c], counts, shares, both }: Triple) => [
    `${name(a)} + ${name(b)}`,
    name(c),
    short(counts.ab),
    ranged(both, 2),
    ...shares.alone.map((share) => share.toFixed(2)),
    shares.predicted.toFixed(2),
  ];
  const head = ["third", "meetings", "P(3|1 and 2)", "P(3|1 alone)", "P(3|2 alone)", "predicted"];
  const made = (title: string, { chosen, tooFew, found, null: chance, listed }: typeof and) => [
    `${title}: ${found} of ${chosen} that were chosen${tooFew > 0 ? `, ${tooFew} of them with too few meetings on the other documents to say` : ""} (${chance} in turned text)`,
    ...(listed.length > 0 ? [table([title, ...head], listed.slice(0, SHOWN).map(row))] : []),
  ];
  return [
    ...made("pairs that predict a third", and),
    ...made("a third with one, not with both", either),
    `${short(pairs)} pairs were looked at. predicted: if each made the third fire by itself, 1 − (1 − p₁)(1 − p₂) / (1 − p₀).`,
  ];
}

function linkTexts(
  links: NonNullable<Composed["links"]>,
  autoencoders: Composed["autoencoders"],
  first: Name,
  second: Name,
): string[] {
  const names = shortNames(autoencoders.map(({ name }) => name));
  const title = `${names[links.from]} → ${names[links.to]}`;
  const { together, weights, rules } = links;
  const row = ({ latents: [f, g], lift, conditional, correlation, virtual }: Link) => [
    first(f),
    second(g),
    ranged(conditional[0], 2),
    `${lift.toFixed(lift < 10 ? 1 : 0)}×`,
    ranged(correlation, 2),
    ...(weights ? [virtual!.cosine.toFixed(2)] : []),
  ];
  const head = ["", "P(2|1)", "lift", "r", ...(weights ? ["cosine"] : [])];
  const list = (of: readonly Link[]) => table([title, ...head], of.slice(0, SHOWN).map(row));
  return [
    `links ${title}: ${found(together, rules.fdr)}`,
    ...(together.listed.length > 0 ? [list(together.listed)] : []),
    ...(weights
      ? weightTexts(weights, list)
      : ["no weights: the one does not write into what the other reads"]),
  ];
}

function weightTexts(
  { chance, strongest, agreement }: NonNullable<Links["weights"]>,
  list: (of: readonly Link[]) => string,
): string[] {
  const above = strongest.filter(({ virtual }) => virtual!.cosine > chance).length;
  return [
    `by weights, decoder · encoder: the highest cosines (one in a thousand random directions exceeds ${chance.toFixed(2)}; ${above === strongest.length ? "all" : above} of these ${strongest.length} do)`,
    ...(strongest.length > 0 ? [list(strongest)] : []),
    agreement
      ? `do weights and firing agree? Over ${short(agreement.pairs)} pairs, rank correlation of cosine and lift ${agreement.rank.toFixed(3)} (encoders dealt out anew: ${agreement.null.low.toFixed(3)} to ${agreement.null.high.toFixed(3)}); ` +
        `median lift of the ${agreement.strongest.pairs} with the highest cosine ${short(agreement.strongest.lift)} (all: ${short(agreement.strongest.all)}; dealt out anew: ${short(agreement.strongest.null)}). The direct path alone: what layers between make of it is left out.`
      : "do weights and firing agree? Too few pairs to say",
  ];
}

function ranged({ value, low, high }: Interval, digits: number): string {
  const text = (v: number) => (v === -Infinity ? "−∞" : v.toFixed(digits));
  if (Number.isNaN(value)) return "-";
  return Number.isNaN(low) ? text(value) : `${text(value)} (${text(low)} to ${text(high)})`;
}
