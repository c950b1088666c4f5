# %% [markdown]
# # Exercise 07 · AdaHessian
#
# Seven functions to write and one derivation. Lecture 07 has all the formulas: the § signs point there. Apart from
# exercise 3 they need no JAX beyond arrays: plain arithmetic, which acts entry by entry.
#
# **How it works.** Replace `raise NotImplementedError` with your answer and run the cell. Its last line tries your
# function on a small example. Then run the *check* cell below it: it calls your function on random inputs beside ours.
# If the values differ and the mistake is one we know, it says which; otherwise it shows the input and both values.
# Check as often as you like. The cells that only say "points" are for grading: leave them, there other inputs are used,
# so write functions that use their arguments and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe  # probe: for the grading cells

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● Fair signs (1 point)
#
# A generator gives numbers `u`, uniform between 0 and 1. Make fair signs of them (§2): $-1$ where $u<\frac12$ and $+1$
# elsewhere (so at exactly $\frac12$ too), in the shape of `u`. (In real code you would call `course_lib`'s
# `rademacher`, which takes 32 signs from one random word.)
#
# <details><summary>Hint</summary>
#
# `jnp.where(condition, a, b)`.
# </details>


# %% answer="fair_signs"
def fair_signs(u):
    """Signs -1 and 1, each with probability ½.

    u: any shape, uniform in [0, 1). Returns an array of its shape.
    """
    ### BEGIN SOLUTION
    return jnp.where(u < 0.5, -1, 1).astype(u.dtype)
    ### END SOLUTION


fair_signs(jnp.array([0.1, 0.7, 0.5, 0.49]))

# %% check="fair_signs"
check(fair_signs, "07.fair_signs")

# %% hidden="fair_signs" points=1
# 1 points: fair_signs on hidden inputs.
### BEGIN HIDDEN TESTS
probe(fair_signs, "07.fair_signs")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● The error of one probe (2 points)
#
# A random vector $z$ has independent entries with mean 0, variance 1 and the fourth moment $\mathbb E[z_i^4]=$
# `fourth`. Return the standard deviation of every entry of $z\odot Hz$ (§2).
#
# <details><summary>Hint</summary>
#
# (7.6) is the variance. `jnp.diag(H)` is the diagonal as a vector. To test yourself: for signs (`fourth` 1) and a
# diagonal $H$ it is 0.
# </details>


# %% answer="probe_error"
def probe_error(H, fourth):
    """The standard deviation of each entry of z ⊙ Hz, for one probe z.

    H: (P, P), symmetric. fourth: E[z_i^4], a number >= 1. Returns (P,), in the unit of H.
    """
    ### BEGIN SOLUTION
    D = jnp.diag(H)
    rest = jnp.sum(H**2, axis=1) - D**2
    return jnp.sqrt((fourth - 1) * D**2 + rest)
    ### END SOLUTION


probe_error(jnp.array([[2.0, 1.0], [1.0, -3.0]]), fourth=3.0)

# %% check="probe_error"
check(probe_error, "07.probe_error")

# %% hidden="probe_error" points=2
# 2 points: probe_error on hidden inputs.
### BEGIN HIDDEN TESTS
probe(probe_error, "07.probe_error")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● Hutchinson's diagonal (3 points)
#
# You have a loss and $M$ probes, the rows of `Z`. Return the mean over the probes of $z\odot Hz$, and its standard
# error: the sample standard deviation of the $M$ draws (with $M-1$) over $\sqrt M$. $H$ is the Hessian of the loss at
# `theta` (§2). The probes need not be signs. In real code no $P\times P$ matrix is formed; the check looks at the
# values only.
#
# <details><summary>Hint</summary>
#
# `jax.jvp(jax.grad(loss), (theta,), (z,))[1]` is $Hz$. So is `jax.grad(lambda t: jax.grad(loss)(t) @ z)(theta)`. A loop
# over the rows with `jnp.stack` is right, and so is `jax.vmap`.
# </details>


# %% answer="hutchinson"
def hutchinson(loss, theta, Z):
    """The estimated diagonal of the loss's Hessian at theta, and its standard error.

    loss(theta) -> scalar. theta: (P,). Z: (M, P), one probe a row, M >= 2. Returns ((P,), (P,)).
    """

    ### BEGIN SOLUTION
    def draw(z):
        return z * jax.jvp(jax.grad(loss), (theta,), (z,))[1]

    draws = jax.vmap(draw)(Z)
    return draws.mean(axis=0), draws.std(axis=0, ddof=1) / jnp.sqrt(len(Z))
    ### END SOLUTION


def loss(theta):
    return theta[0] ** 2 * theta[1] + theta[1] ** 2


at = jnp.array([1.0, 2.0])  # the Hessian is [[4, 2], [2, 2]] there
hutchinson(loss, at, jnp.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]))

# %% check="hutchinson"
check(hutchinson, "07.hutchinson")

# %% hidden="hutchinson" points=3
# 3 points: hutchinson on hidden inputs.
### BEGIN HIDDEN TESTS
probe(hutchinson, "07.hutchinson")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● Averaging in space (2 points)
#
# Give every entry of `D` the mean of its block: entries $0$ to $b-1$, then $b$ to $2b-1$, and so on. The last block may
# be shorter; it is averaged over the entries that it has (§3).
#
# <details><summary>Hint</summary>
#
# A loop over `range(0, len(D), b)` and `jnp.concatenate` will do. To test yourself: averaging twice is averaging once.
# </details>


# %% answer="block_average"
def block_average(D, b):
    """Every entry replaced by the mean over its block of b consecutive entries.

    D: (n,). b: an integer >= 1. Returns (n,).
    """
    ### BEGIN SOLUTION
    blocks = [D[i : i + b] for i in range(0, len(D), b)]
    return jnp.concatenate([jnp.full_like(d, d.mean()) for d in blocks])
    ### END SOLUTION


block_average(jnp.array([1.0, 2.0, 6.0, 4.0, 8.0]), b=3)

# %% check="block_average"
check(block_average, "07.block_average")

# %% hidden="block_average" points=2
# 2 points: block_average on hidden inputs.
### BEGIN HIDDEN TESTS
probe(block_average, "07.block_average")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●● Averaging in time (2 points)
#
# You have the averaged diagonals $D^{(s)}$ of all steps so far, one row a step. Return $\bar D_t^{\,k}$ after the
# last row, with bias correction (§4, equation 7.9).
#
# <details><summary>Hint</summary>
#
# Run $v\leftarrow\beta_2v+(1-\beta_2)D^2$ from 0, correct, take the root, take the power: in this order. To test
# yourself: if all rows are equal, the result is $|D|^k$.
# </details>


# %% answer="hessian_moment"
def hessian_moment(Ds, b2, k):
    """The k-th power of the root of the corrected average of squares.

    Ds: (t, P), t >= 1, the oldest first. b2: the decay, in (0, 1). k: in [0, 1]. Returns (P,).
    """
    ### BEGIN SOLUTION
    v = jnp.zeros_like(Ds[0])
    for D in Ds:
        v = b2 * v + (1 - b2) * D**2
    return jnp.sqrt(v / (1 - b2 ** len(Ds))) ** k
    ### END SOLUTION


hessian_moment(jnp.array([[1.0, -4.0], [2.0, 4.0]]), b2=0.9, k=0.5)

# %% check="hessian_moment"
check(hessian_moment, "07.hessian_moment")

# %% hidden="hessian_moment" points=2
# 2 points: hessian_moment on hidden inputs.
### BEGIN HIDDEN TESTS
probe(hessian_moment, "07.hessian_moment")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● The whole step (3 points)
#
# Write one step of AdaHessian (§4): `D` is this step's estimate of the diagonal, not yet averaged; $b$ divides its
# length. The step is
#
# $$\theta\leftarrow\theta-\alpha\Big(\frac{\hat m}{\bar D^{\,k}+\varepsilon}+w\,\theta\Big),$$
#
# with $\theta$ on the right from before the step, $\hat m=m/(1-\beta_1^t)$ and $\bar D=\sqrt{v/(1-\beta_2^t)}$. `t` is
# the number of this step and counts from 1. Return $\theta$ and the two averages as they are to be stored: `m` of the
# gradients, `v` of the squares of the averaged diagonals, both without correction.
#
# <details><summary>Hint</summary>
#
# Your functions of exercises 4 and 5 have the parts. Which $v$ does the next step need: the corrected one, its root, or
# the plain average?
# </details>


# %% answer="adahessian_step"
def adahessian_step(theta, m, v, g, D, t, alpha, b1, b2, eps, k, w, b):
    """One step of AdaHessian with decoupled weight decay.

    theta, m, v, g, D: (P,); m and v are from before the step. t: 1 at the first step. alpha, b1, b2, eps, k, w:
    numbers. b: the block size, a divisor of P. Returns (theta, m, v), all (P,).
    """
    ### BEGIN SOLUTION
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * block_average(D, b) ** 2
    m_hat, D_bar = m / (1 - b1**t), jnp.sqrt(v / (1 - b2**t))
    return theta - alpha * (m_hat / (D_bar**k + eps) + w * theta), m, v
    ### END SOLUTION


start, zero = jnp.array([1.0, -1.0]), jnp.zeros(2)
g, D = jnp.array([4.0, -2.0]), jnp.array([4.0, 2.0])
adahessian_step(
    start, zero, zero, g, D, 1, 1.0, 0.9, 0.999, 0.0, 1.0, 0.0, b=1
)  # Newton's step: to (0, 0)

# %% check="adahessian_step"
check(adahessian_step, "07.adahessian_step")

# %% hidden="adahessian_step" points=3
# 3 points: adahessian_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(adahessian_step, "07.adahessian_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●●● A Hessian every few steps (3 points)
#
# Row $i$ of `gs` and of `Ds` is the gradient and the averaged diagonal at count $i=0,1,2,\dots$ Run AdaHessian over
# them with $k=1$ and no weight decay, where $v$ is refreshed at the counts $0,n,2n,\dots$ only, $n=$ `every`, and left
# alone in between (§4). The rows of `Ds` in between would not be computed; do not read them. `m` takes every gradient.
# Return $\theta$ after the last step.
#
# <details><summary>Hint</summary>
#
# Keep a counter of the refreshes. Which of the two bias corrections uses it? To test yourself: if all rows of `gs` are
# $g$ and all of `Ds` are $D$, each step is $-\alpha g/(|D|+\varepsilon)$, whatever `every` is.
# </details>


# %% answer="delayed_run"
def delayed_run(theta, gs, Ds, every, alpha, b1, b2, eps):
    """theta after len(gs) steps with a Hessian every few of them.

    theta: (P,). gs, Ds: (T, P). every: an integer >= 1. alpha, b1, b2, eps: numbers. Returns (P,).
    """
    ### BEGIN SOLUTION
    m, v, refreshes = jnp.zeros_like(theta), jnp.zeros_like(theta), 0
    for i, g in enumerate(gs):
        m = b1 * m + (1 - b1) * g
        if i % every == 0:
            v, refreshes = b2 * v + (1 - b2) * Ds[i] ** 2, refreshes + 1
        D_bar = jnp.sqrt(v / (1 - b2**refreshes))
        theta = theta - alpha * (m / (1 - b1 ** (i + 1))) / (D_bar + eps)
    return theta
    ### END SOLUTION


gs, Ds = jnp.ones((5, 2)), jnp.full((5, 2), 2.0)
delayed_run(jnp.zeros(2), gs, Ds, 2, 0.1, 0.9, 0.999, 0.0)  # 5 times -0.05

# %% check="delayed_run"
check(delayed_run, "07.delayed_run")

# %% hidden="delayed_run" points=3
# 3 points: delayed_run on hidden inputs.
### BEGIN HIDDEN TESTS
probe(delayed_run, "07.delayed_run")
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · ●● A derivation, graded by hand (5 points)
#
# Take $\beta_1=\beta_2=0$, so that a step of weight $j$ is $-\alpha\,g_j/(|D_j|^k+\varepsilon)$. Weights with $D_j=0$
# are left aside.
#
# 1. The loss is multiplied by $c>0$. By what is the step multiplied if $\varepsilon=0$? For which $k$ does it not
#    change? With $k=1$ and $\varepsilon>0$: by which $\varepsilon'$ must $\varepsilon$ be replaced so that it does not
#    change?
# 2. Every weight is measured in a unit of its own, $\theta_j=s_j\varphi_j$ with $s_j>0$. Find the gradient and the
#    exact diagonal of the Hessian in $\varphi$. Show that with $k=1$, $\varepsilon=0$ the step, brought back to
#    $\theta$, does not change. What is it for other $k$?
# 3. Now one probe of fair signs is used, the same $z$ in $\varphi$ as in $\theta$ ($k=1$, $\varepsilon=0$). Write the
# estimate of entry $j$ in $\varphi$, its
#    mean and its variance. Is the step still the same?
# 4. Now $D$ is exact, and averaged over a block of two weights. Give numbers $D_1,D_2,s_1,s_2$ for which the step is
#    not the same with $k=1$, $\varepsilon=0$. In one or two sentences: what does this say about the blocks that one
#    should choose?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="units" points=5
# ### BEGIN SOLUTION
# **1.** $g\to cg$, $D\to cD$: the step is multiplied by $c^{1-k}$, and does not change for $k=1$. With $\varepsilon$:
# $\frac{cg}{c|D|+\varepsilon'}=\frac{g}{|D|+\varepsilon'/c}$, so $\varepsilon'=c\,\varepsilon$. (1 point)
#
# **2.** Chain rule, twice: $g'_j=s_jg_j$ and $H'_{ij}=s_is_jH_{ij}$, so $D'_j=s_j^2D_j$. The step in $\varphi_j$ is
# $-\alpha\frac{s_jg_j}{s_j^2|D_j|}$; in $\theta_j$ it is $s_j$ times that, $-\alpha\frac{g_j}{|D_j|}$, the same. For
# other $k$: $s_j\cdot\frac{s_jg_j}{s_j^{2k}|D_j|^k}$, so it is multiplied by $s_j^{2-2k}$. (1½ points)
#
# **3.** $\hat D'_j=z_j\sum_iH'_{ji}z_i=s_j^2D_j+s_j\sum_{i\ne j}s_iH_{ji}z_iz_j$. Mean $s_j^2D_j$, variance
# $s_j^2\sum_{i\ne j}s_i^2H_{ji}^2$ (7.6). Relative to the mean the noise was $\sqrt{\sum H_{ji}^2}/|D_j|$ and is now
# $\sqrt{\sum (s_i/s_j)^2H_{ji}^2}/|D_j|$: only the mean is transformed as it should be, and the step with one probe is
# another one (unless $H$ is diagonal). (1½ points)
#
# **4.** $D_1=D_2=1$, $s_1=1$, $s_2=3$. In $\theta$ the average is 1 and both steps are $-\alpha g_j$. In $\varphi$ the
# average is $\frac{1+9}2=5$; brought back, the steps are $-\alpha s_j^2g_j/5$, that is $-\frac15\alpha g_1$ and
# $-\frac95\alpha g_2$. So a block should hold weights that are measured alike and have similar curvature, such as one
# kernel's; an average over any neighbours depends on the units. (1 point)
# ### END SOLUTION
