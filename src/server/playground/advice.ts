// What to do about an error, where its message does not say.

/** By code. */
export const ADVICE: Readonly<Record<string, string>> = {
  ERR_CHAT_TEMPLATE: 'This model goes on with text. Choose "Continue" in place of "Chat".',
  ERR_CONNECTIONS: 'The server has as many connections as it takes. Close other tabs, or try again later.',
  ERR_CONTEXT_OVERFLOW: 'Shorten the prompt.',
  ERR_DISCONNECTED: 'Is the server still running? Generate tries again.',
  ERR_DRAINING: 'The server is stopping. Try again when it is back, or on another one.',
  ERR_EMPTY_PROMPT: 'Write a prompt first.',
  ERR_LOADING: 'The model is still loading. Try again in a moment.',
  ERR_QUEUE_FULL: 'The server has as many requests as it takes. Try again in a moment.',
  ERR_RATE_LIMIT: 'This key has made as many requests as it may. Wait a little.',
  ERR_SESSION_LOST: 'Generate asks again: the conversation so far is sent along.',
}

export const adviceFor = (code: string): string | undefined => ADVICE[code]
