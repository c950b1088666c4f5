# %% [markdown]
# # Exercise 06 · K-FAC
#
# Six functions to write and one derivation. Together they are K-FAC for one layer. Lecture 06 has all the formulas:
# the § signs point there.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside
# ours. If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both
# values. Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs
# are used, so write functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too.
#
# **Conventions**, everywhere below: weights are a matrix with one row for each input and one column for each output;
# the bias is its last row; vec lists the rows, as `V.ravel()` does. In the lecture $d$ counts the bias's 1; where
# inputs come without it (2 and 6) they have $d$ columns here, and $A$ has $d+1$.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● The vec trick (2 points)
#
# Write the product of $A\otimes B$ with the list $\mathrm{vec}\,V$, as a matrix in the shape of $V$ (§1, equation 6.1).
# $A$ and $B$ are square and *not* symmetric. Do not form $A\otimes B$: a check of values cannot see whether you do,
# but with a layer of a thousand inputs and outputs it would need 8 TB.
#
# <details><summary>Hint</summary>
#
# Write the entry $(i,p)$ of the result as a sum over $j$ and $q$. Which sum is a product with $A$, and from which
# side? Which index of $B$ is summed over? To test yourself: `jnp.kron(A, B) @ V.ravel()`, reshaped to the shape of
# $V$.
# </details>


# %% answer="kron_times"
def kron_times(A, B, V):
    """(A ⊗ B) vec V, as a matrix whose rows make up the list.

    A: (d, d). B: (k, k). V: (d, k). Returns (d, k).
    """
    ### BEGIN SOLUTION
    return A @ V @ B.T
    ### END SOLUTION


A = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
B = jnp.array([[1.0, 1.0], [0.0, 2.0]])
V = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
kron_times(A, B, V)

# %% check="kron_times"
check(kron_times, "06.kron_times")

# %% hidden="kron_times" points=2
# 2 points: kron_times on hidden inputs.
### BEGIN HIDDEN TESTS
probe(kron_times, "06.kron_times")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● The two factors (2 points)
#
# A layer got the inputs `a`, a row for each example, without the bias's 1. `g` has the slopes of *each example's own*
# loss at the layer's outputs. Return $A$ and $G$ of (6.5), the expectations being means over these examples. The
# layer has a bias.
#
# <details><summary>Hint</summary>
#
# `jnp.concatenate([a, jnp.ones((n, 1), a.dtype)], axis=1)` appends the ones. A mean of outer products of rows is one
# product of matrices and one division. How often do you have to divide by $n$? (§2, the second slip.)
# </details>


# %% answer="factors"
def factors(a, g):
    """The factors A and G of a layer with a bias, as means over the examples.

    a: (n, d), inputs without the 1. g: (n, k), slopes of each example's loss.
    Returns (d + 1, d + 1) and (k, k), as a tuple.
    """
    ### BEGIN SOLUTION
    n = len(a)
    a = jnp.concatenate([a, jnp.ones((n, 1), a.dtype)], axis=1)
    return a.T @ a / n, g.T @ g / n
    ### END SOLUTION


a = jnp.array(
    [[1.0, 0.5, -1.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 0.5], [2.0, 1.0, 0.0]]
)
g = jnp.array([[0.5, -0.5], [-0.2, 0.2], [0.9, -0.9], [-0.6, 0.4]])
factors(a, g)

# %% check="factors"
check(factors, "06.factors")

# %% hidden="factors" points=2
# 2 points: factors on hidden inputs.
### BEGIN HIDDEN TESTS
probe(factors, "06.factors")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● Slopes for the factors (2 points)
#
# The last layer of a classifier has the logits `z`. Return the slopes $g=\partial(-\log p(\tilde y|x))/\partial z$
# that $G$ is to be made of (§9), one row for each example. You are given `sample(key, z_i)`, which draws a class from
# $\mathrm{softmax}(z_i)$, a key for each example, and the labels `y` of the data. Whether you need all of that is for
# you to decide.
#
# <details><summary>Hint</summary>
#
# Whose $y$ is the expectation in $F$ over? `jax.vmap(sample)(keys, z)` calls `sample` for every example with its own
# key. `jax.nn.one_hot(labels, k)` has a 1 in each row. §2 has the slope of a softmax.
# </details>


# %% answer="drawn_slopes"
def drawn_slopes(sample, z, y, keys):
    """The slopes at the logits that G of the last layer is made of.

    sample(key, z_i) -> a class, an integer. z: (n, k) logits. y: (n,) observed classes. keys: (n,) keys.
    Returns (n, k).
    """
    ### BEGIN SOLUTION
    labels = jax.vmap(sample)(keys, z)
    return jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[1])
    ### END SOLUTION


def sample(key, z):
    return jax.random.categorical(key, z)


z = jnp.array(
    [[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 3.0, 1.0], [0.5, 0.5, 1.0]]
)
keys = jax.random.split(jax.random.key(0), 4)
jnp.round(drawn_slopes(sample, z, jnp.array([0, 1, 1, 2]), keys), 3)

# %% check="drawn_slopes"
check(drawn_slopes, "06.drawn_slopes")

# %% hidden="drawn_slopes" points=2
# 2 points: drawn_slopes on hidden inputs.
### BEGIN HIDDEN TESTS
probe(drawn_slopes, "06.drawn_slopes")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● Damping, split (2 points)
#
# Return $A+\pi\sqrt\lambda\,I$ and $G+\frac{\sqrt\lambda}\pi I$ with $\pi$ of (6.9).
#
# <details><summary>Hint</summary>
#
# `jnp.trace(A)` is the sum of the eigenvalues. A mean is that over their number, and $A$ and $G$ have different
# numbers of them. To test yourself: multiplied by a number $c$, $G$ and $\lambda$ should leave the first value as it
# is, and multiply the second by $c$.
# </details>


# %% answer="damped_factors"
def damped_factors(A, G, damping):
    """A and G, each with its part of the damping on the diagonal.

    A: (d, d), G: (k, k), symmetric, with positive traces. damping: λ > 0. Returns (d, d) and (k, k), as a tuple.
    """
    ### BEGIN SOLUTION
    d, k = len(A), len(G)
    pi = jnp.sqrt((jnp.trace(A) / d) / (jnp.trace(G) / k))
    root = jnp.sqrt(damping)
    return A + pi * root * jnp.eye(d), G + root / pi * jnp.eye(k)
    ### END SOLUTION


A = jnp.diag(jnp.array([4.0, 2.0, 3.0]))
G = jnp.array([[0.3, 0.1], [0.1, 0.2]])
damped_factors(A, G, 0.12)

# %% check="damped_factors"
check(damped_factors, "06.damped_factors")

# %% hidden="damped_factors" points=2
# 2 points: damped_factors on hidden inputs.
### BEGIN HIDDEN TESTS
probe(damped_factors, "06.damped_factors")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● Apply the inverse (2 points)
#
# Return $(A\otimes G)^{-1}\,\mathrm{vec}\,V$ as a matrix, for symmetric positive definite factors, and again without
# forming $A\otimes G$ (§1 and §7).
#
# <details><summary>Hint</summary>
#
# The inverse of the product is the product of the inverses, and then exercise 1. `jnp.linalg.solve(A, V)` is
# $A^{-1}V$. For the other side: $VG^{-1}=(G^{-1}V^\top)^\top$, because $G$ is symmetric.
# </details>


# %% answer="apply_inverse"
def apply_inverse(A, G, V):
    """(A ⊗ G)⁻¹ vec V, as a matrix whose rows make up the list.

    A: (d, d) and G: (k, k), symmetric positive definite. V: (d, k). Returns (d, k).
    """
    ### BEGIN SOLUTION
    left = jnp.linalg.solve(A, V)
    return jnp.linalg.solve(G, left.T).T
    ### END SOLUTION


A = jnp.diag(jnp.array([4.0, 2.0, 3.0]))
G = jnp.array([[0.3, 0.1], [0.1, 0.2]])
apply_inverse(A, G, jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]))

# %% check="apply_inverse"
check(apply_inverse, "06.apply_inverse")

# %% hidden="apply_inverse" points=2
# 2 points: apply_inverse on hidden inputs.
### BEGIN HIDDEN TESTS
probe(apply_inverse, "06.apply_inverse")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● One step of K-FAC (3 points)
#
# Put it together for one layer. You get its weights `W` (the bias is the last row), the averages `A` and `G` as they
# were before, the number `t` of this step, counted from 1, and of the batch: the inputs `a` (without the 1), the
# slopes `g` of each example's loss at the *observed* labels, and the slopes `g_drawn` at labels *drawn* from the
# model.
#
# 1. Average the factors of this batch into `A` and `G`, by (6.11).
# 2. Damp the new averages, and take the step (6.10) along the gradient of the batch's mean loss.
# 3. Return the new weights and the new averages, undamped.
#
# You may use your functions of exercises 2, 4 and 5.
#
# <details><summary>Hint</summary>
#
# Which of `g` and `g_drawn` belongs to the gradient, which to the factor? By (6.3) the gradient of the *mean* loss is
# the mean of the outer products of `a` (with its 1) and the slopes. At `t = 1` the old averages have weight 0.
# </details>


# %% answer="kfac_step"
def kfac_step(W, A, G, t, a, g, g_drawn, learning_rate, damping, decay):
    """One step of K-FAC for one layer: the new W, and the new averages A and G.

    W: (d + 1, k). A: (d + 1, d + 1), G: (k, k), the averages before this step. t: this step's number, from 1.
    a: (n, d), inputs without the 1. g, g_drawn: (n, k), slopes of each example's loss at observed and at drawn labels.
    learning_rate: α. damping: λ. decay: ε. Returns (d + 1, k), (d + 1, d + 1) and (k, k), as a tuple.
    """
    ### BEGIN SOLUTION
    new_A, new_G = factors(a, g_drawn)
    keep = min(1 - 1 / t, decay)
    A = keep * A + (1 - keep) * new_A
    G = keep * G + (1 - keep) * new_G
    ones = jnp.ones((len(a), 1), a.dtype)
    gradient = jnp.concatenate([a, ones], axis=1).T @ g / len(a)
    step = apply_inverse(*damped_factors(A, G, damping), gradient)
    return W - learning_rate * step, A, G
    ### END SOLUTION


a = jnp.array([[1, 0.5, -1], [0, 2, 1], [-1, 0, 0.5], [2, 1, 0]])
g = jnp.array([[0.5, -0.5], [-0.2, 0.2], [0.9, -0.9], [-0.6, 0.4]])
W = jnp.array([[0.5, -0.5], [0.1, 0.2], [0.0, 0.3], [0.0, 0.0]])
g_drawn = jnp.array([[0.5, -0.5], [0.8, -0.8], [-0.1, 0.1], [0.4, -0.6]])
kfac_step(W, jnp.eye(4), jnp.eye(2), 3, a, g, g_drawn, 0.1, 0.01, 0.95)

# %% check="kfac_step"
check(kfac_step, "06.kfac_step")

# %% hidden="kfac_step" points=3
# 3 points: kfac_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(kfac_step, "06.kfac_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●● A derivation, graded by hand (5 points)
#
# A batch has $b$ examples, drawn independently; example $i$ gives $a_i$ and, with a label drawn from the model,
# $g_i$. Write $A_t=\frac1b\sum_ia_ia_i^\top$, $G_t=\frac1b\sum_ig_ig_i^\top$, and $A=\mathbb E[aa^\top]$,
# $G=\mathbb E[gg^\top]$, $F_\ell=\mathbb E[aa^\top\otimes gg^\top]$ for the expectations over an example.
#
# 1. Show that $\mathbb E[A_t]=A$ and $\mathbb E[G_t]=G$, and derive (6.12), the expectation of $A_t\otimes G_t$.
# 2. Somebody uses batches of one and argues: "the expectation of $A_t\otimes G_t$ is then the exact block, so with
#    moving averages K-FAC is exact". What would have to be averaged for that, and how many numbers is it? What does
#    K-FAC average, and what is $\mathbb E[\bar A\otimes\bar G]$ for the plain means $\bar A,\bar G$ over $T$
#    independent batches of $b$, all with the same network?
# 3. Test (6.12) by hand. With probability one half an example has $a=1,g=0$, otherwise $a=0,g=1$ (single numbers).
#    Find $A$, $G$, $F_\ell$, and for $b=2$ list the four batches and compute $\mathbb E[A_tG_t]$.
# 4. A program takes its slopes from the *mean* loss of the batch: $g_i/b$ in the place of $g_i$, in $G$ only. Take
#    plain factors of one batch. By what is the undamped K-FAC step multiplied, where it exists? Now with a fixed
#    $\lambda>0$ and the split (6.8), (6.9): to what does the step of a layer tend as $b\to\infty$ (put $A_t$, $G_t$ and
#    the gradient at their limits)? What has the method become?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="pairs" points=5
# ### BEGIN SOLUTION
# **1.** The expectation of a mean is the mean of the expectations, all equal: $\mathbb E[A_t]=A$, $\mathbb E[G_t]=G$.
# Multiply out: $A_t\otimes G_t=\frac1{b^2}\sum_{i,j}a_ia_i^\top\otimes g_jg_j^\top$. There are $b$ terms with $i=j$,
# each with expectation $F_\ell$; and $b(b-1)$ terms with $i\ne j$, where the examples are independent, so that the
# expectation of the product is the product of the expectations, $A\otimes G$. In all
# $\frac1{b^2}\big(bF_\ell+b(b-1)A\otimes G\big)=(1-\frac1b)A\otimes G+\frac1bF_\ell$. (2 points: independence named,
# terms counted)
#
# **2.** The products $A_t\otimes G_t$ themselves would have to be averaged, $(dk)^2$ numbers: the block that was to
# be avoided; a sum of Kronecker products is no Kronecker product. K-FAC averages $A_t$ and $G_t$, $d^2+k^2$ numbers.
# $T$ batches of $b$ are, for plain means, one batch of $bT$:
# $\mathbb E[\bar A\otimes\bar G]=(1-\frac1{bT})A\otimes G+\frac1{bT}F_\ell$, which tends to $A\otimes G$. (1 point)
#
# **3.** $A=\frac12$, $G=\frac12$, $F_\ell=\mathbb E[a^2g^2]=0$. The batches (first, first), (first, second), (second,
# first), (second, second) are equally likely and have $(A_t,G_t)=(1,0),(\frac12,\frac12),(\frac12,\frac12),(0,1)$, so
# $\mathbb E[A_tG_t]=\frac14(0+\frac14+\frac14+0)=\frac18$; and $(1-\frac12)\cdot\frac14+\frac12\cdot0=\frac18$. (1
# point)
#
# **4.** $G_t$ is divided by $b^2$, so $G_t^{-1}$ and the step are multiplied by $b^2$. With damping:
# $\operatorname{tr}G_t$ is divided by $b^2$, so $\pi$ becomes $b\pi$. The damped factors are
# $A_t+b\pi\sqrt\lambda\,I$ and $\frac{G_t}{b^2}+\frac{\sqrt\lambda}{b\pi}I$. Multiply the second and divide the first
# by $b$: $\frac{A_t}b+\pi\sqrt\lambda\,I$ and $\frac{G_t}b+\frac{\sqrt\lambda}\pi I$, which tend to multiples of $I$
# whose product is $\lambda$ (as $A_t,G_t$ stay near $A,G$). So the step tends to $-\frac\alpha\lambda\nabla_Wh$:
# gradient descent, and no error is reported. (1 point)
# ### END SOLUTION
