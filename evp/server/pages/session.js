// Who is logged in. The tokens are in cookies that no script can read.

const JSON_TYPE = { "content-type": "application/json" };

/** An answer that is no success; `status` is 0 where there was none at all. */
export class Failed extends Error {
  constructor(status, code, detail, retryAfterS) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** Send a request; raises Failed. A session that can be renewed is, once. */
export async function ask(path, options = {}) {
  let answer = await send(path, options);
  if (answer.status === 401 && (await renewed())) answer = await send(path, options);
  if (!answer.ok) throw await failure(answer);
  return answer;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const postJson = (path, body) =>
  askJson(path, { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body) });

/** Log in; raises Failed. Returns who it is: {name, scopes}. */
export async function logIn(username, password) {
  const body = JSON.stringify({ username, password, cookies: true });
  const answer = await send("/auth/login", { method: "POST", headers: JSON_TYPE, body });
  if (!answer.ok) throw await failure(answer);
  return whoAmI();
}

export const whoAmI = () => askJson("/auth/me");

/** Log out; raises Failed if the session may go on. Where evp answers, its cookies are gone. */
export async function logOut() {
  const answer = await send("/auth/logout", { method: "POST" });
  if (!answer.ok && answer.status !== 401) throw await failure(answer);
}

/**
 * Exchange the refresh cookie; one page of a browser at a time. Tells whether the session goes on.
 * Raises Failed where nobody can tell now: a session must not end with the store.
 */
async function renewed() {
  const renew = async () => {
    const answer = await send("/auth/refresh", { method: "POST" });
    if (answer.status >= 500) throw await failure(answer);
    return answer.ok;
  };
  return navigator.locks ? navigator.locks.request("evp-refresh", renew) : renew();
}

async function send(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "no_answer", "The server does not answer.");
  }
}

async function failure(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // A proxy in between speaks for itself, by the status.
  }
  const retryAfterS = Number(answer.headers.get("retry-after")) || null;
  const detail = problem.detail ?? `The server answers ${answer.status}.`;
  return new Failed(answer.status, problem.code ?? "", detail, retryAfterS);
}
