// Values of flags that set no option of the engine, and so have no schema.
import { InvalidArgumentError } from 'commander'

/** A whole number from `lowest` to `highest`. */
export function wholeNumber(lowest = 1, highest = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= lowest && value <= highest) return value
    const range = highest === Number.MAX_SAFE_INTEGER ? `from ${lowest}` : `from ${lowest} to ${highest}`
    throw new InvalidArgumentError(`Use a whole number ${range}.`)
  }
}

/** Whole numbers between commas. */
export function numberList(lowest = 1): (text: string) => number[] {
  return (text) => text.split(',').map(wholeNumber(lowest))
}
