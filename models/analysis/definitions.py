"""What the figures of the analysis mean, in words: shown in the report, so that nobody has to guess."""

from models.analysis.clusters import CENTRAL_TOKENS
from models.analysis.naming import LEAST_LIFT, LEAST_SHARE
from models.analysis.survey import OUTLIER_DEVIATIONS

DEFINITIONS = {
    "Coefficients": (
        "c_t = (x_t W_up^T) * silu(x_t W_gate^T), one number for each cell of the layer; x_t is the embedding of "
        "token t behind the layer's own norm. Computed in float32 in chunks of the vocabulary."
    ),
    "Strongest cells": "The cells of largest |c_t|; the number beside a cell is c_t, with its sign.",
    "Clusters": (
        "Mini-batch k-means (scikit-learn) over the c_t of the whole vocabulary, each scaled to length 1, so that it "
        f"counts which cells are read and not how loudly. Cards list the {CENTRAL_TOKENS} tokens nearest to the "
        "centre, or the first of them."
    ),
    "Names": (
        f"A cluster takes the name of a trait that at least {LEAST_SHARE:.0%} of its members have, {LEAST_LIFT:g} "
        "times the share of the whole vocabulary or more (a trait that 90% have does with 1.25 times); among those, "
        "the one of highest share x log2(lift). Traits are forms of spelling, Unicode's categories and scripts, how "
        "often a token occurred in training, and behind and before which of the text's commonest tokens it stands "
        "often. No lists of words are used. Where no trait covers enough, the cluster is unnamed."
    ),
    "Clustering coefficient": (
        "Our definition; the paper gives none that we know of: the share of a token's 10 nearest tokens (cosine of "
        "c_t, over the whole vocabulary) that are in its own cluster, averaged over the tokens looked at. Chance is "
        "what random neighbours would give. It falls as the number of clusters grows."
    ),
    "Explained": "The share of the variance of the scaled c_t that the clusters' centres account for.",
    "Nearest tokens": "By the cosine of c_t in the layer.",
    "Outliers": f"Coefficients more than {OUTLIER_DEVIATIONS:g} standard deviations of their own c_t from its mean.",
    "Promotes, suppresses": (
        "The logit lens: a cell's value through the final norm and the head, as if it were all that the residual "
        "stream holds. Where the coefficient is below 0 the two change places."
    ),
    "Singular values": (
        "Of the layer's slice of the table, [vocabulary, hidden size], by way of its Gram matrix in float64. Rank 90% "
        "and 99%: how many of the largest have that share of the sum of all squares."
    ),
    "Importance of a layer": (
        "Perplexity of the text with the layer's memory left out; of a dense model, with the output of the layer's "
        "FFN left out; of a flex model also without the context-aware FFN-C."
    ),
    "Alpha": "All layers' memory (of a dense model: all FFNs' outputs) times alpha.",
    "Probe: recall": (
        "Made from the text: the second word of a collocation (a pair of adjacent words seen three times or more, the "
        "second behind at least a tenth of the occurrences of the first and none of the 100 commonest words; "
        "strongest log-likelihood first), behind up to 24 tokens that do not name it. Wrong choices never stand "
        "behind that first word in the text, and stand mostly behind the same other word as the right one."
    ),
    "Probe: context": (
        "Made from the text: a name inside a sentence that the last 96 tokens have named; wrong choices are names "
        "that they have not. A name is a capitalised word that stands inside sentences at least every second time."
    ),
    "Probe: copy": (
        "Made of the text's words: a list of 16 random words, then its beginning once more; what comes next? Wrong "
        "choices are from the same list, so that nothing learned helps."
    ),
    "All probes": (
        "Four choices of one token each, chance 25%; the wrong ones are those words whose count in the text is "
        "nearest to the right one's (copy: drawn from the list). With 300 questions one standard error is at most 2.9 "
        "points."
    ),
}
