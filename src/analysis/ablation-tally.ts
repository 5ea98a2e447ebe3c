/** What the ablation of one latent adds up to: effects by document, and the predictions it changes most. */
import type { Model } from "../model/model.ts";
import { piecesOf, tokenText, windowAround, type TextChunk } from "./codes.ts";
import { ratioInterval, type Interval } from "./interval.ts";

/** Mean changes, in nats, with 95 % bootstrap intervals over all documents read. */
export interface Effect {
  /** Δ loss of the predictions at the positions where the latent fires. */
  lossPerFiring: Interval;
  /** Δ loss summed up in a document, by all documents read. */
  lossPerDocument: Interval;
  /** Δ loss of all predictions of the text, those that do not change included. */
  lossPerPrediction: Interval;
  /** KL(as it is ‖ changed), by the same two denominators as the losses. */
  klPerFiring: Interval;
  klPerPrediction: Interval;
}

/** A prediction and how its loss changes. */
export interface ChangedPrediction {
  /** Loss without the latent less loss with it: above 0 where the latent helps. */
  loss: number;
  document: string;
  /** Exact characters before the predicted token and its own; joined, they are a slice of the document. */
  pieces: string[];
  /** The piece that is predicted. */
  predicted: number;
}

/** All predictions of one token at and after firings in a row. */
export interface ChangedToken {
  token: number;
  text: string;
  count: number;
  /** Sum of the changes of their losses. */
  loss: number;
}

export interface LatentAblation {
  latent: number;
  /** Positions at which it fires, how many of them predict a token of the text, and in how many documents they lie. */
  firings: number;
  firingPredictions: number;
  firingDocuments: number;
  total: Effect;
  direct: Effect;
  control: { total: Effect; direct: Effect };
  /** Predictions whose loss rises, and falls, most without the latent; total effect. */
  hurt: ChangedPrediction[];
  helped: ChangedPrediction[];
  /** Tokens whose losses rise, and fall, most in sum. */
  hurtTokens: ChangedToken[];
  helpedTokens: ChangedToken[];
}

type Kind = "total" | "direct" | "control" | "controlDirect";

/** Sums by document ordinal; absent where there was nothing. */
interface Sums {
  firingLoss: number[];
  loss: number[];
  firingKl: number[];
  kl: number[];
}

/** Characters' tokens shown before a prediction. */
const BEFORE = 12;
const TOKENS = 8;

export class AblationTally {
  readonly latent: number;
  readonly #text: (token: number) => string;
  readonly #examples: number;
  readonly #sums: Record<Kind, Sums>;
  readonly #firingPredictions: number[] = [];
  readonly #documents = new Set<number>();
  #firings = 0;
  readonly #hurt: ChangedPrediction[] = [];
  readonly #helped: ChangedPrediction[] = [];
  readonly #tokens = new Map<number, { count: number; loss: number }>();

  constructor(latent: number, model: Pick<Model, "tokenizer">, examples: number) {
    this.latent = latent;
    this.#text = tokenText(model);
    this.#examples = examples;
    const sums = (): Sums => ({ firingLoss: [], loss: [], firingKl: [], kl: [] });
    this.#sums = { total: sums(), direct: sums(), control: sums(), controlDirect: sums() };
  }

  /** The latent fires at a position of this document. */
  fires(document: number): void {
    this.#firings++;
    this.#documents.add(document);
  }

  /** At a position where it fires a token of this document is predicted. */
  predicts(document: number): void {
    this.#firingPredictions[document] = (this.#firingPredictions[document] ?? 0) + 1;
  }

  /** A prediction of a token of this document changes. */
  add(
    kind: Kind,
    document: number,
    { loss, kl, fires }: { loss: number; kl: number; fires: boolean },
  ): void {
    const sums = this.#sums[kind];
    const plus = (to: number[], value: number) => (to[document] = (to[document] ?? 0) + value);
    plus(sums.loss, loss);
    plus(sums.kl, kl);
    if (!fires) return;
    plus(sums.firingLoss, loss);
    plus(sums.firingKl, kl);
  }

  /** Keeps a prediction where it is among those that change most. @param position of the predicted token in the chunk. */
  show(chunk: TextChunk, position: number, token: number, loss: number): void {
    const known = this.#tokens.get(token) ?? { count: 0, loss: 0 };
    this.#tokens.set(token, { count: known.count + 1, loss: known.loss + loss });
    for (const [list, size] of [[this.#hurt, loss] as const, [this.#helped, -loss] as const]) {
      const rank = (one: ChangedPrediction) => (list === this.#hurt ? one.loss : -one.loss);
      const isFull = list.length === this.#examples;
      if (!(size > 0) || (isFull && !(size > rank(list.at(-1)!)))) continue;
      const [from] = windowAround(chunk, position, BEFORE);
      const { text, pieceOf } = piecesOf(chunk, from, position + 1);
      const document = chunk.documents[chunk.document[position]].id;
      if (isFull) list.pop();
      list.push({ loss, document, pieces: text, predicted: pieceOf[position - from] });
      list.sort((a, b) => rank(b) - rank(a));
    }
  }

  /** @param predictions of each document; [documents]. */
  result(predictions: readonly number[], controls: number): LatentAblation {
    const documents = predictions.length;
    const whole = (values: readonly number[], divisor = 1) =>
      Float64Array.from({ length: documents }, (_, d) => (values[d] ?? 0) / divisor);
    const firing = whole(this.#firingPredictions);
    const all = Float64Array.from(predictions);
    const each = new Float64Array(documents).fill(1);
    const effect = (kind: Kind): Effect => {
      const { firingLoss, loss, firingKl, kl } = this.#sums[kind];
      const draws = kind.startsWith("control") ? Math.max(1, controls) : 1;
      return {
        lossPerFiring: ratioInterval(whole(firingLoss, draws), firing),
        lossPerDocument: ratioInterval(whole(loss, draws), each),
        lossPerPrediction: ratioInterval(whole(loss, draws), all),
        klPerFiring: ratioInterval(whole(firingKl, draws), firing),
        klPerPrediction: ratioInterval(whole(kl, draws), all),
      };
    };
    const tokens = [...this.#tokens].map(([token, rest]) => ({
      ...{ token, text: this.#text(token), ...rest },
    }));
    tokens.sort((a, b) => b.loss - a.loss);
    return {
      latent: this.latent,
      firings: this.#firings,
      firingPredictions: firing.reduce((a, b) => a + b, 0),
      firingDocuments: this.#documents.size,
      total: effect("total"),
      direct: effect("direct"),
      control: { total: effect("control"), direct: effect("controlDirect") },
      hurt: this.#hurt,
      helped: this.#helped,
      hurtTokens: tokens.filter(({ loss }) => loss > 0).slice(0, TOKENS),
      helpedTokens: tokens.filter(({ loss }) => loss < 0).slice(-TOKENS).reverse(), // prettier-ignore
    };
  }
}
