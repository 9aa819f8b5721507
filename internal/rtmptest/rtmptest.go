// Package rtmptest writes RTMP by hand, as peers of all kinds do: chunks, messages,
// commands and bodies of media, byte for byte. Only tests import it.
//
// Strings are for tables of exact bytes, slices for what is written at once. No
// function looks at what it is given: what it writes may be wrong.
package rtmptest
