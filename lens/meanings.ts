/** What each number is: its formula, what it is divided by, and where it comes from. Shown beside every number. */
export interface Meaning {
  name: string;
  /** The formula, and what it is a share of. */
  says: string;
}

const HELD = "Measured on held-out text.";
const WINDOW = "Over the rows since the log step before.";

export const MEANINGS: Record<string, Meaning> = {
  fvu: { name: "FVU", says: "Fraction of variance unexplained: Σ‖x−x̂‖² / Σ‖x−x̄‖², one global mean x̄, both sums over all rows. 0 is perfect, 1 no better than the mean." }, // prettier-ignore
  l0: { name: "L0", says: "Active latents per row: mean over rows of |{i : aᵢ > 0}|." },
  l1: { name: "L1", says: "Mean over rows of Σᵢ |aᵢ|." },
  mse: { name: "MSE", says: "Mean over rows and dimensions of (x − x̂)²." },
  cosine: { name: "cosine", says: "Mean over rows of the cosine of x and x̂." },
  deadFraction: { name: "dead", says: "Share of the dSae latents that did not fire: in training for deadAfterTokens activations, in evaluation in all rows." }, // prettier-ignore
  denseFraction: {
    name: "dense",
    says: "Share of the dSae latents that fire on more than 10 % of the rows.",
  },
  ceLossRecovered: { name: "CE recovered", says: `(CE_zero − CE_sae) / (CE_zero − CE_clean): how much of the model's next-token loss is kept when the reconstruction takes the activation's place; 1 is all, 0 as bad as zeros. ${HELD}` }, // prettier-ignore
  activeFeatures: {
    name: "active",
    says: "Latents that fire at least once in the evaluated rows.",
  },
  loss: {
    name: "loss",
    says: `The training loss: reconstruction + sparsity + auxiliary, mean per row. ${WINDOW}`,
  },
  "terms.reconstruction": { name: "reconstruction", says: `Mean over rows of ‖x − x̂‖². ${WINDOW}` },
  "terms.sparsity": {
    name: "sparsity",
    says: `The sparsity penalty with its coefficient. ${WINDOW}`,
  },
  "terms.aux": {
    name: "auxiliary",
    says: `The loss that wakes dead latents, with its coefficient. ${WINDOW}`,
  },
  learningRate: { name: "learning rate", says: "Adam's, of the step just done." },
  tokensPerSecond: {
    name: "tokens/s",
    says: "Activations trained on per second, over the last seconds.",
  },
  density: {
    name: "density",
    says: "firings / positions of the indexed held-out text; beginning-of-sequence tokens are in neither.",
  },
  firings: {
    name: "firings",
    says: "Positions of the indexed held-out text where its activation is above 0.",
  },
  documents: { name: "documents", says: "Documents of the indexed text with at least one firing." },
  mean: { name: "mean", says: "Mean activation over the positions where it fires." },
  max: { name: "max", says: "Largest activation in the indexed text." },
  selectivity: {
    name: "selectivity",
    says: "ε²: the share of the variance of its activation that the current token explains, 0 … 1, corrected for chance.",
  },
  kinds: {
    name: "kinds of token",
    says: "2^entropy (bits) of its activation over token types: on how many kinds of token it fires, in effect.",
  },
  auc: {
    name: "AUC",
    says: "Area under the ROC curve of its activation as a score for the label that fits it best; the label is chosen on other documents. 0.5 is chance.",
  },
  f1: {
    name: "F1",
    says: "2·P·R / (P + R) of “activation ≥ threshold” for that label; threshold and label chosen on other documents.",
  },
  rule: {
    name: "rule F1",
    says: "F1 of its best rule on test documents; the rule is chosen on others.",
  },
  rating: { name: "rating", says: "Stars that people gave, 1 to 5." },
  latent: { name: "latent", says: "Its number, from 0." },
  like: {
    name: "likeness",
    says: "Cosine of its decoder direction with that of the latent that like: names.",
  },
  x: { name: "on the text", says: "Its largest activation on the text of the fires: clause." },
  phi: {
    name: "φ",
    says: "Correlation of firing with firing, Pearson's φ of the 2 × 2 table: (n·N − a·b) / √(a(N−a)b(N−b)); n common positions, a and b firings of each, N positions.",
  },
  pmi: {
    name: "PMI",
    says: "log₂ of n·N / (a·b): how many times as often as by chance both fire.",
  },
  jaccard: {
    name: "Jaccard",
    says: "n / (a + b − n): common positions over positions where either fires.",
  },
};

export const nameOf = (key: string): string => MEANINGS[key]?.name ?? key;
