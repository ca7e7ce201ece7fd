// Pickles read as data: of what one asks for, only the functions given here are ever called.
import { GorgonError } from '../../src/errors.js'

/** Largest pickle read. Tensors' bytes are not in it: a checkpoint of a thousand tensors needs about 150 KiB. */
export const MAX_PICKLE_BYTES = 8 * 1024 * 1024
/** Most dicts, lists, tuples and results of calls: an empty one is a byte in the file and two hundred in memory. */
export const MAX_PICKLE_OBJECTS = 1 << 18
/** Most objects that are remembered to be referred to again. */
export const MAX_PICKLE_MEMO = 1 << 19
/** Protocols that name no buffers outside of the pickle. */
const PROTOCOLS = { least: 2, most: 4 }

/** The first opcode and the last. */
const PROTO = 0x80
const STOP = 0x2e

/** As opposed to a list, which is an array. A dict is a Map. */
export class PickleTuple {
  constructor(readonly items: readonly unknown[]) {}
}

/** What a pickle may call. */
export class PickleFunction {
  constructor(readonly call: (args: readonly unknown[]) => unknown) {}
}

/** All that a pickle can reach. */
export interface PickleWorld {
  /** By `module.name`: a PickleFunction, or any value. */
  readonly globals: ReadonlyMap<string, unknown>
  /** What a persistent id stands for. */
  readonly persistent: (id: unknown) => unknown
}

/** ERR_HEADS_FORMAT: the pickle, or what it describes, is not what it should be. `what` is a sentence without its subject. */
export function pickleError(where: string, what: string, details: Record<string, unknown> = {}): GorgonError {
  return new GorgonError('ERR_HEADS_FORMAT', `${where} ${what}.`, { file: where, ...details })
}

/**
 * The value a pickle describes: Map, array, PickleTuple, string, number, bigint, boolean, null, Uint8Array, and what `world` makes.
 *
 * @param where The file's name, for messages.
 * @throws {GorgonError} ERR_HEADS_FORMAT when it asks for a global that `world` does not have, uses what state dicts do not need, is cut short
 *   or too large.
 */
export function readPickle(bytes: Uint8Array, world: PickleWorld, where: string): unknown {
  if (bytes.length > MAX_PICKLE_BYTES) {
    throw pickleError(
      where,
      `has a pickle of ${bytes.length} bytes; gorgon reads at most ${MAX_PICKLE_BYTES}. Save the heads alone`,
      { bytes: bytes.length, limit: MAX_PICKLE_BYTES },
    )
  }
  return new Unpickler(bytes, world, where).read()
}

class Unpickler {
  readonly #view: DataView
  #at = 0
  readonly #stack: unknown[] = []
  /** Where on the stack each open MARK is. */
  readonly #marks: number[] = []
  readonly #memo = new Map<number, unknown>()
  #objects = 0

  /** What is done at each opcode; those that state dicts are written with, by the names that Python gives them. */
  static readonly #steps: ReadonlyMap<number, (self: Unpickler) => void> = new Map([
    /* PROTO            */ [0x80, (self) => self.#checkProtocol(self.#u8())],
    /* FRAME            */ [0x95, (self) => void self.#take(8)],
    /* NONE             */ [0x4e, (self) => self.#push(null)],
    /* NEWTRUE          */ [0x88, (self) => self.#push(true)],
    /* NEWFALSE         */ [0x89, (self) => self.#push(false)],
    /* BININT           */ [0x4a, (self) => self.#push(self.#view.getInt32(self.#take(4), true))],
    /* BININT1          */ [0x4b, (self) => self.#push(self.#u8())],
    /* BININT2          */ [0x4d, (self) => self.#push(self.#view.getUint16(self.#take(2), true))],
    /* LONG1            */ [0x8a, (self) => self.#push(self.#long(self.#u8()))],
    /* BINFLOAT         */ [0x47, (self) => self.#push(self.#view.getFloat64(self.#take(8)))],
    /* SHORT_BINUNICODE */ [0x8c, (self) => self.#push(self.#text(self.#u8()))],
    /* BINUNICODE       */ [0x58, (self) => self.#push(self.#text(self.#u32()))],
    /* SHORT_BINSTRING  */ [0x55, (self) => self.#push(self.#text(self.#u8()))],
    /* BINSTRING        */ [0x54, (self) => self.#push(self.#text(self.#u32()))],
    /* SHORT_BINBYTES   */ [0x43, (self) => self.#push(self.#slice(self.#u8()))],
    /* BINBYTES         */ [0x42, (self) => self.#push(self.#slice(self.#u32()))],
    /* MARK             */ [0x28, (self) => void self.#marks.push(self.#stack.length)],
    /* EMPTY_TUPLE      */ [0x29, (self) => self.#make(new PickleTuple([]))],
    /* TUPLE            */ [0x74, (self) => self.#make(new PickleTuple(self.#popToMark()))],
    /* TUPLE1           */ [0x85, (self) => self.#make(new PickleTuple(self.#popMany(1)))],
    /* TUPLE2           */ [0x86, (self) => self.#make(new PickleTuple(self.#popMany(2)))],
    /* TUPLE3           */ [0x87, (self) => self.#make(new PickleTuple(self.#popMany(3)))],
    /* EMPTY_LIST       */ [0x5d, (self) => self.#make([])],
    /* APPEND           */ [0x61, (self) => self.#append(self.#popMany(1))],
    /* APPENDS          */ [0x65, (self) => self.#append(self.#popToMark())],
    /* EMPTY_DICT       */ [0x7d, (self) => self.#make(new Map())],
    /* SETITEM          */ [0x73, (self) => self.#setItems(self.#popMany(2))],
    /* SETITEMS         */ [0x75, (self) => self.#setItems(self.#popToMark())],
    /* BINPUT           */ [0x71, (self) => self.#remember(self.#u8())],
    /* LONG_BINPUT      */ [0x72, (self) => self.#remember(self.#u32())],
    /* MEMOIZE          */ [0x94, (self) => self.#remember(self.#memo.size)],
    /* BINGET           */ [0x68, (self) => self.#recall(self.#u8())],
    /* LONG_BINGET      */ [0x6a, (self) => self.#recall(self.#u32())],
    /* GLOBAL           */ [0x63, (self) => self.#global([self.#line(), self.#line()])],
    /* STACK_GLOBAL     */ [0x93, (self) => self.#global(self.#popMany(2))],
    /* INST             */ [0x69, (self) => self.#refuse(`${self.#line()}.${self.#line()}`)],
    /* REDUCE           */ [0x52, (self) => self.#call(self.#popMany(2))],
    /* BUILD            */ [0x62, (self) => self.#setAttributes(self.#popMany(1))],
    /* BINPERSID        */ [0x51, (self) => self.#make(self.world.persistent(self.#popMany(1)[0]))],
  ])

  constructor(
    private readonly bytes: Uint8Array,
    private readonly world: PickleWorld,
    private readonly where: string,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  read(): unknown {
    if (this.bytes[0] !== PROTO) throw this.#broken('does not begin with a protocol')
    for (let opcode = this.#u8(); opcode !== STOP; opcode = this.#u8()) {
      const step = Unpickler.#steps.get(opcode)
      if (!step)
        throw this.#broken(`has the opcode 0x${opcode.toString(16).padStart(2, '0')}, which state dicts do not need`)
      step(this)
    }
    const [value, ...more] = this.#stack
    if (value === undefined || more.length > 0 || this.#marks.length > 0)
      throw this.#broken('does not end with one value')
    return value
  }

  #checkProtocol(protocol: number): void {
    if (protocol >= PROTOCOLS.least && protocol <= PROTOCOLS.most) return
    throw this.#broken(`has protocol ${protocol}; gorgon reads ${PROTOCOLS.least} to ${PROTOCOLS.most}`)
  }

  /** Moves on, and gives where the bytes passed over begin. */
  #take(count: number): number {
    const begin = this.#at
    if (count > this.bytes.length - begin) throw this.#broken('is cut short')
    this.#at = begin + count
    return begin
  }

  #u8(): number {
    return this.bytes[this.#take(1)]!
  }

  #u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  #slice(count: number): Uint8Array {
    const begin = this.#take(count)
    return this.bytes.subarray(begin, begin + count)
  }

  #text(count: number): string {
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.#slice(count))
    } catch (error) {
      if (error instanceof GorgonError) throw error
      throw this.#broken('has text that is not UTF-8')
    }
  }

  /** Up to a line break. */
  #line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at)
    if (end < 0) throw this.#broken('is cut short')
    const line = this.#text(end - this.#at)
    this.#take(1)
    return line
  }

  /** Little-endian, two's complement. */
  #long(count: number): number | bigint {
    let value = 0n
    for (const byte of this.#slice(count).toReversed()) value = (value << 8n) | BigInt(byte)
    const signed = BigInt.asIntN(8 * count, value)
    return Number.isSafeInteger(Number(signed)) ? Number(signed) : signed
  }

  #push(value: unknown): void {
    this.#stack.push(value)
  }

  #make(value: unknown): void {
    if (++this.#objects > MAX_PICKLE_OBJECTS) {
      throw pickleError(
        this.where,
        `has a pickle of more than ${MAX_PICKLE_OBJECTS} objects, which is more than gorgon reads. Save the heads alone`,
        { limit: MAX_PICKLE_OBJECTS },
      )
    }
    this.#push(value)
  }

  #top(): unknown {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) throw this.#broken('uses a value that is not there')
    return this.#stack.at(-1)
  }

  /** In the order they were pushed. */
  #popMany(count: number): unknown[] {
    if (this.#stack.length - (this.#marks.at(-1) ?? 0) < count) throw this.#broken('uses a value that is not there')
    return this.#stack.splice(this.#stack.length - count)
  }

  #popToMark(): unknown[] {
    const mark = this.#marks.pop()
    if (mark === undefined) throw this.#broken('closes what was not opened')
    return this.#stack.splice(mark)
  }

  #append(items: readonly unknown[]): void {
    const list = this.#top()
    if (!Array.isArray(list)) throw this.#broken('appends to what is not a list')
    // Not spread into one call: there may be more than a call takes arguments.
    for (const item of items) list.push(item)
  }

  #setItems(items: readonly unknown[]): void {
    const dict = this.#top()
    if (!(dict instanceof Map) || items.length % 2 !== 0) throw this.#broken('sets items of what is not a dict')
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1])
  }

  #remember(index: number): void {
    if (this.#memo.size >= MAX_PICKLE_MEMO) throw this.#broken(`remembers more than ${MAX_PICKLE_MEMO} objects`)
    this.#memo.set(index, this.#top())
  }

  #recall(index: number): void {
    if (!this.#memo.has(index)) throw this.#broken('refers to an object it has not made')
    this.#push(this.#memo.get(index))
  }

  #global([module, name]: readonly unknown[]): void {
    if (typeof module !== 'string' || typeof name !== 'string') throw this.#broken('names a global with no text')
    const path = `${module}.${name}`
    if (!this.world.globals.has(path)) this.#refuse(path)
    this.#push(this.world.globals.get(path))
  }

  #call([called, args]: readonly unknown[]): void {
    if (!(called instanceof PickleFunction) || !(args instanceof PickleTuple))
      throw this.#broken('calls what is not a function')
    this.#make(called.call(args.items))
  }

  /** Attributes of an OrderedDict, such as PyTorch's _metadata, are not tensors, and are not kept. */
  #setAttributes(_: readonly unknown[]): void {
    if (!(this.#top() instanceof Map)) throw this.#broken('gives attributes to what has none')
  }

  #refuse(path: string): never {
    const shown = JSON.stringify(path.slice(0, 80)).slice(1, -1)
    throw pickleError(
      this.where,
      `asks for ${shown}: in Python, loading it would run that. Heads are tensors by name and need nothing else, and nothing was run. ` +
        'If you trust the file, load it in Python and save its state_dict() alone',
      { global: path.slice(0, 80) },
    )
  }

  #broken(what: string): GorgonError {
    return pickleError(
      this.where,
      `is not a state dict that gorgon reads: at byte ${this.#at}, its pickle ${what}. Save the heads again`,
      { byte: this.#at },
    )
  }
}
