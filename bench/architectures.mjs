/**
 * What is measured for each architecture at 768 → 24,576, batch 4,096: Lens' configuration, what the
 * peers' scripts are told, which peers have it, and the speed-up over plain PyTorch to reach.
 */
const K = 32;
const WIDTHS = [1536, 3072, 6144, 12288, 24576];

/** About 50 of 24,576 products of the inputs, of mean norm √768, with random unit vectors lie above this. */
const THRESHOLD = 3.05;

export const architectures = {
  topk: {
    title: "TopK, k 32",
    lens: { architecture: "topk", k: K },
    peers: { k: K },
    others: ["sae_lens", "dictionary_learning", "sparsify"],
    target: 12,
    peerTarget: 6,
  },
  batchTopk: {
    title: "BatchTopK, k 32 on average",
    lens: { architecture: "batchTopk", k: K },
    peers: { k: K },
    others: ["sae_lens", "dictionary_learning"],
    target: 8,
  },
  jumprelu: {
    title: "JumpReLU, about 48 latents active",
    lens: {
      ...{ architecture: "jumprelu", initialThreshold: THRESHOLD },
      ...{ bandwidth: 0.1, l0Coefficient: 0.01 },
    },
    peers: { threshold: THRESHOLD, bandwidth: 0.1, l0Coefficient: 0.01, targetL0: 48 },
    others: ["sae_lens", "dictionary_learning"],
    target: 8,
  },
  matryoshka: {
    title: "Matryoshka BatchTopK, k 32 on average, five widths",
    lens: { architecture: "batchTopk", k: K, matryoshkaWidths: WIDTHS.slice(0, -1) },
    peers: { k: K, widths: WIDTHS },
    others: ["sae_lens", "dictionary_learning"],
    target: 8,
  },
};
