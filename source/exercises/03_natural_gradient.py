# %% [markdown]
# # Exercise 03 · Natural gradient
#
# Six functions to write and one derivation. Lecture 03 has all the formulas: the § signs point there.
#
# **How it works.** Run the cells from the top: later examples use names of earlier ones. Replace
# `raise NotImplementedError` with your answer and run the cell. Its last line tries your function on a small example.
# Then run the *check* cell below it: it calls your function on random inputs beside ours. If the values differ and the
# mistake is one we know, it says which; otherwise it shows the input and both values. The cells that only say "points"
# are for grading: leave them. There other inputs and other models are used, so write functions that use their arguments
# and not the example's names.
#
# Difficulty: ● easy, ●● core, ●●● stretch. Until a function is written, its cell stops with `NotImplementedError`: that
# is meant so; in the menu, *Run all* stops there too. Solve linear systems with `jnp.linalg.solve`; no inverse is
# needed.

# %%
import jax
import jax.numpy as jnp

from course_lib.checks import check, probe

# 64-bit numbers, so that a check sees mistakes and not rounding
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## 1 · ● Steepest descent by a ruler (2 points)
#
# Steps are measured with $\|d\|_A=\sqrt{d^\top A\,d}$. Write the direction of steepest descent, with $A$-length 1 (§1,
# equation 3.2).
#
# <details><summary>Hint</summary>
#
# First $x=A^{-1}g$. Then its length: $\|g\|_{A^{-1}}=\sqrt{g^\top A^{-1}g}$ is `jnp.sqrt(g @ x)`. To test yourself:
# `d @ A @ d` is 1.
# </details>


# %% answer="steepest_descent"
def steepest_descent(A, g):
    """The limit of (1/ε) argmin of the loss over ‖d‖_A <= ε.

    A: (P, P), symmetric and positive definite. g: (P,), the gradient. Returns (P,).
    """
    ### BEGIN SOLUTION
    x = jnp.linalg.solve(A, g)
    return -x / jnp.sqrt(g @ x)
    ### END SOLUTION


A = jnp.array([[2.0, 0.5], [0.5, 1.0]])
g = jnp.array([1.0, -1.0])
steepest_descent(A, g)

# %% check="steepest_descent"
check(steepest_descent, "03.steepest_descent")

# %% hidden="steepest_descent" points=2
# 2 points: steepest_descent on hidden inputs.
### BEGIN HIDDEN TESTS
probe(steepest_descent, "03.steepest_descent")
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · ●● A damped natural gradient step (3 points)
#
# You are given the scores of a batch, one row for each example, at targets that were *drawn from the model*, so that
# $\hat F=\frac1n\sum_is_is_i^\top$ estimates the Fisher matrix; and the gradient `grad` of the loss, which was computed
# with the labels of the data. Return the parameters after one step of $\theta-\alpha(\hat F+\lambda I)^{-1}g$ (§2, §6).
#
# <details><summary>Hint</summary>
#
# $\sum_is_is_i^\top=S^\top S$ for the $(n,P)$ matrix $S$ of scores. The identity is `jnp.eye(theta.size)`. To test
# yourself: with a huge damping the step is nearly $-\alpha g/\lambda$.
# </details>


# %% answer="natural_gradient_step"
def natural_gradient_step(theta, scores, grad, learning_rate, damping):
    """θ after one step -α (F̂ + λI)⁻¹ g.

    theta, grad: (P,). scores: (n, P), at targets drawn from the model. learning_rate: α. damping: λ > 0, in the
    unit of F. Returns (P,).
    """
    ### BEGIN SOLUTION
    F = scores.T @ scores / len(scores)
    damped = F + damping * jnp.eye(theta.size, dtype=theta.dtype)
    return theta - learning_rate * jnp.linalg.solve(damped, grad)
    ### END SOLUTION


theta = jnp.array([1.0, 0.0])
scores = jnp.array([[1.0, 0.5], [-1.0, 0.5], [0.2, -1.5], [-0.2, 0.4]])
natural_gradient_step(theta, scores, g, learning_rate=0.5, damping=0.1)

# %% check="natural_gradient_step"
check(natural_gradient_step, "03.natural_gradient_step")

# %% hidden="natural_gradient_step" points=3
# 3 points: natural_gradient_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(natural_gradient_step, "03.natural_gradient_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · ●● The Fisher times a vector (3 points)
#
# A classifier gives logits $z=$ `logits(theta, x_i)` for one example. Write $Fv=\frac1n\sum_iJ_i^\top F_R(z_i)J_iv$
# with $F_R=\mathrm{diag}(p)-pp^\top$, $p=\mathrm{softmax}(z)$ (§5, equation 3.10). Do it with `jax.jvp` and `jax.vjp`,
# without the matrix $F$. (The check sees values alone: it cannot tell how you got them.)


# %%
def logits(theta, x):
    """Three logits of a linear model: theta (6,), x (2,). Returns (3,)."""
    return theta.reshape(3, 2) @ x


theta6 = jnp.array([0.5, -1.0, 0.0, 2.0, -0.5, 0.3])
x = jnp.array([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.3], [2.0, -1.0]])
v = jnp.array([1.0, 0.0, 0.0, -1.0, 0.5, 0.0])

# %% [markdown]
# <details><summary>Hint</summary>
#
# Make one function of `theta` that gives the logits of all examples:
# `outputs = lambda t: jax.vmap(logits, (None, 0))(t, x)`. `z, dz = jax.jvp(outputs, (theta,), (v,))` has $J_iv$ in the
# rows of `dz`. Multiply each row by its $F_R$, which needs sums over the classes, axis 1 (§5 has it without the
# matrix). Then `jax.vjp(outputs, theta)[1](u)` is a tuple whose only entry is $\sum_iJ_i^\top u_i$.
# </details>


# %% answer="fisher_vector_product"
def fisher_vector_product(logits, theta, x, v):
    """F v for a softmax model, F the mean over the inputs.

    logits(theta, x_i) -> (k,). theta, v: (P,). x: (n, d). Returns (P,).
    """

    ### BEGIN SOLUTION
    def outputs(t):
        return jax.vmap(logits, in_axes=(None, 0))(t, x)

    z, dz = jax.jvp(outputs, (theta,), (v,))
    p = jax.nn.softmax(z)
    u = p * (dz - jnp.sum(p * dz, axis=1, keepdims=True))
    return jax.vjp(outputs, theta)[1](u / len(x))[0]
    ### END SOLUTION


fisher_vector_product(logits, theta6, x, v)

# %% check="fisher_vector_product"
check(fisher_vector_product, "03.fisher_vector_product")

# %% hidden="fisher_vector_product" points=3
# 3 points: fisher_vector_product on hidden inputs.
### BEGIN HIDDEN TESTS
probe(fisher_vector_product, "03.fisher_vector_product")
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · ●● The Gauss–Newton matrix (3 points)
#
# For a network `output(theta, x_i)` $\to z$ and a loss `nll(z, y_i)` in the outputs, write
# $G=\frac1n\sum_iJ_i^\top H_L(y_i,z_i)\,J_i$ (§3). The likelihood of the example is a Normal whose mean and log
# standard deviation are the two outputs: there $G$ depends on the labels, and is not $F$.
#
# <details><summary>Hint</summary>
#
# For one example: `J = jax.jacobian(output)(theta, x_i)` is $(k,P)$, and `jax.hessian(nll)(z, y_i)` differentiates in
# the first argument, the outputs. A loop over the examples is fine.
# </details>


# %%
def nll(z, y):
    """-log N(y; z₀, e^{2 z₁}) for one example: z (2,), y ()."""
    u = (y - z[0]) * jnp.exp(-z[1])
    return z[1] + 0.5 * u**2 + 0.5 * jnp.log(2 * jnp.pi)


def output(theta, x):
    """Mean and log σ of a linear model: theta (4,), x (2,)."""
    return theta.reshape(2, 2) @ x


theta4 = jnp.array([0.5, -1.0, 0.2, 0.1])
y = jnp.array([0.0, -2.0, 1.0, 1.5])


# %% answer="gauss_newton"
def gauss_newton(output, nll, theta, x, y):
    """G, the mean of Jᵀ H_L J, with H_L the Hessian of nll in z at the data's labels.

    output(theta, x_i) -> (k,). nll(z, y_i) -> (). theta: (P,). x: (n, d). y: (n,). Returns (P, P).
    """

    ### BEGIN SOLUTION
    def one(a, b):
        J = jax.jacobian(output)(theta, a)
        return J.T @ jax.hessian(nll)(output(theta, a), b) @ J

    return jnp.mean(jax.vmap(one)(x, y), axis=0)
    ### END SOLUTION


jnp.round(gauss_newton(output, nll, theta4, x, y), 2)

# %% check="gauss_newton"
check(gauss_newton, "03.gauss_newton")

# %% hidden="gauss_newton" points=3
# 3 points: gauss_newton on hidden inputs.
### BEGIN HIDDEN TESTS
probe(gauss_newton, "03.gauss_newton")
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · ●●● A test of invariance (3 points)
#
# The same model has parameters $\theta$ and $\varphi$, with $\theta=\psi(\varphi)$. From `phi`, take one natural
# gradient step in $\varphi$, and from $\theta=\psi(\varphi)$ one in $\theta$, both undamped and with the same learning
# rate. Return $\psi(\varphi')-\theta'$, the vector by which they differ (§4). You get the loss and the Fisher matrix as
# functions of $\theta$; those in $\varphi$ follow by (3.7).
#
# <details><summary>Hint</summary>
#
# `K = jax.jacobian(psi)(phi)`. In $\varphi$ the gradient is $K^\top g$ and the Fisher matrix $K^\top FK$, with $g$ and
# $F$ at $\theta$. To test yourself: halve the learning rate; the gap should become about four times smaller.
# </details>


# %%
def loss(theta):
    """A Normal, theta = (mean, log σ); data of mean 1.5, variance 0.25."""
    square = (theta[0] - 1.5) ** 2 + 0.25
    return theta[1] + 0.5 * square * jnp.exp(-2 * theta[1])


def fisher(theta):
    return jnp.diag(jnp.array([jnp.exp(-2 * theta[1]), 2.0]))


def psi(phi):  # from (mean, σ)
    return jnp.array([phi[0], jnp.log(phi[1])])


# %% answer="invariance_gap"
def invariance_gap(loss, fisher, psi, phi, learning_rate):
    """ψ(φ') - θ' after one natural gradient step in each parametrisation.

    loss(theta) -> (). fisher(theta) -> (P, P). psi(phi) -> theta, (P,). phi: (P,). Returns (P,).
    """
    ### BEGIN SOLUTION
    theta, K = psi(phi), jax.jacobian(psi)(phi)
    g, F = jax.grad(loss)(theta), fisher(theta)
    step_phi = -learning_rate * jnp.linalg.solve(K.T @ F @ K, K.T @ g)
    step_theta = -learning_rate * jnp.linalg.solve(F, g)
    return psi(phi + step_phi) - (theta + step_theta)
    ### END SOLUTION


for rate in (0.2, 0.1, 0.05):
    print(rate, invariance_gap(loss, fisher, psi, jnp.array([1.2, 1.2]), rate))

# %% check="invariance_gap"
check(invariance_gap, "03.invariance_gap")

# %% hidden="invariance_gap" points=3
# 3 points: invariance_gap on hidden inputs.
### BEGIN HIDDEN TESTS
probe(invariance_gap, "03.invariance_gap")
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · ●●● A step with a budget of nats (2 points)
#
# Return the step $d=-\alpha F^{-1}g$ if $\frac12d^\top Fd\le c$, and otherwise the same direction, shortened so that
# $\frac12d^\top Fd=c$ (§6, equation 3.12).
#
# <details><summary>Hint</summary>
#
# The quadratic grows with the square of the length: so the factor is a root. `jnp.minimum(1, ...)` does without a
# branch.
# </details>


# %% answer="kl_limited_step"
def kl_limited_step(F, g, learning_rate, max_kl):
    """The natural gradient step, at most max_kl nats long by its quadratic.

    F: (P, P), positive definite. g: (P,). learning_rate: α. max_kl: c > 0, in nats. Returns (P,).
    """
    ### BEGIN SOLUTION
    d = -learning_rate * jnp.linalg.solve(F, g)
    return d * jnp.minimum(1, jnp.sqrt(2 * max_kl / (d @ F @ d)))
    ### END SOLUTION


kl_limited_step(A, g, learning_rate=1.0, max_kl=0.1)

# %% check="kl_limited_step"
check(kl_limited_step, "03.kl_limited_step")

# %% hidden="kl_limited_step" points=2
# 2 points: kl_limited_step on hidden inputs.
### BEGIN HIDDEN TESTS
probe(kl_limited_step, "03.kl_limited_step")
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · ●● A derivation, graded by hand (6 points)
#
# Counts $y_1,\dots,y_n$ with mean $\bar y>0$ are fitted by a Poisson with mean $\lambda>0$ (no damping in this
# exercise): $-\log p=\lambda-y\log\lambda+\log y!$. The items give 1, 2, 2 and 1 points.
#
# 1. Write the mean loss $h(\lambda)$, its gradient, and the Fisher information in $\lambda$ (unit 01 has it). Find the
#    natural gradient, and show that one step with learning rate 1 from any $\lambda$ ends at the optimum.
# 2. Now use $\eta=\log\lambda$. Find gradient and Fisher information in $\eta$, and the natural step with rate
#    $\alpha$. Show that the $\lambda$ that it reaches agrees with that of the step in $\lambda$ to first order in
#    $\alpha$, and find the second-order term of the difference (the first less the second). Where does one step with
#    $\alpha=1$ end now?
# 3. Find the Hessian of $h$ in $\lambda$ and in $\eta$. Which of the two is equal to the Fisher information in the same
#    parameter, for all $\bar y$? Explain by (3.6).
# 4. Take $\lambda=1$, $\bar y=4$. How fast does $\lambda$ move under Newton's method in $\lambda$, and in $\eta$? Give
#    both speeds $\dot\lambda=d\lambda/d\alpha$ at $\alpha=0$. Which agrees with the natural gradient's?
#
# Write in the cell below, in words and LaTeX (`$...$`).

# %% [markdown] derivation="poisson" points=6
# ### BEGIN SOLUTION
# **1.** $h=\lambda-\bar y\log\lambda+\text{const}$, $h'=1-\bar y/\lambda$, $F=1/\lambda$. Natural gradient:
# $\lambda(1-\bar y/\lambda)=\lambda-\bar y$. With $\alpha=1$: $\lambda-(\lambda-\bar y)=\bar y$, where $h'=0$; since
# $h''=\bar y/\lambda^2>0$ it is the minimum. (1 point)
#
# **2.** $d\lambda/d\eta=\lambda$, so $g_\eta=\lambda(1-\bar y/\lambda)=\lambda-\bar y$ and
# $F_\eta=\lambda^2/\lambda=\lambda$. The step is $\Delta\eta=-\alpha(1-\bar y/\lambda)=\alpha u$ with
# $u=\bar y/\lambda-1$. Then
# $\lambda'=\lambda e^{\alpha u}=\lambda+\alpha(\bar y-\lambda)+\tfrac12\lambda\alpha^2u^2+\dots$ The first two terms
# are the step in $\lambda$; the difference begins with $\frac12\alpha^2(\bar y-\lambda)^2/\lambda$. With $\alpha=1$:
# $\lambda'=\lambda e^{\bar y/\lambda-1}$, which is not $\bar y$ unless $\lambda=\bar y$. (2 points)
#
# **3.** In $\lambda$: $\bar y/\lambda^2$, equal to $1/\lambda$ only at $\lambda=\bar y$. In $\eta$:
# $h=e^\eta-\bar y\eta$, so $h''=e^\eta=\lambda$, equal to $F_\eta$ always. $-\log p=e^\eta-y\eta+\log y!$: $\eta$ is
# the natural parameter, so the second derivative has no $y$ in it, and Hessian, Gauss–Newton and Fisher are one (here
# the output is the parameter itself, $J=1$). (2 points)
#
# **4.** In $\lambda$: $\dot\lambda=-h'/h''=-(1-4)/4=0.75$. In $\eta$: $\dot\eta=-(1-4)/1=3$, so
# $\dot\lambda=\lambda\dot\eta=3$. The natural gradient gives $\dot\lambda=\bar y-\lambda=3$ in both. Newton in $\eta$
# agrees with it, by part 3; Newton in $\lambda$ is four times slower. In one dimension only the speed can differ; in
# several, the direction too (§4). (1 point)
# ### END SOLUTION
