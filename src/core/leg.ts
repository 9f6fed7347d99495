/** One movement of money, from one wallet to another. */
export type Leg = { readonly from: string; readonly to: string; readonly amount: bigint; readonly currency: string }
