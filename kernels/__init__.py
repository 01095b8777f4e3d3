"""Ops, one file each. This file imports nothing: import the op from its file.

masked_softmax          softmax of each row over its own sub-vocabulary     memory-bound
linear_cross_entropy    fused linear + cross-entropy, logits never stored   compute-bound
trie_topk               one step of trie-constrained beam search            memory-bound
beam_attention          beams over a shared context and their own tree      memory-bound

Their Triton kernels are in triton/, under the same names, loaded when an op first runs on Triton.
"""
