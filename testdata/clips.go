// Package testdata has the clips that programs of this module carry with them.
package testdata

import _ "embed"

// H264AAC is h264_aac.flv: 6 s of H.264 with B-frames, 320x180 at 25 frames a
// second, and AAC.
//
//go:embed h264_aac.flv
var H264AAC []byte
