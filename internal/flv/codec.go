package flv

import "fmt"

// Codec is a codec's FourCC, big-endian as in the message. A legacy codec id has the FourCC
// of the same codec, so that a change of form is not a change of codec. 0 is an unknown
// legacy id.
type Codec uint32

// Codecs with a FourCC in Enhanced RTMP v2 (VideoFourCc, AudioFourCc).
const (
	CodecVP8  Codec = 'v'<<24 | 'p'<<16 | '0'<<8 | '8'
	CodecVP9  Codec = 'v'<<24 | 'p'<<16 | '0'<<8 | '9'
	CodecAV1  Codec = 'a'<<24 | 'v'<<16 | '0'<<8 | '1'
	CodecAVC  Codec = 'a'<<24 | 'v'<<16 | 'c'<<8 | '1'
	CodecHEVC Codec = 'h'<<24 | 'v'<<16 | 'c'<<8 | '1'
	CodecVVC  Codec = 'v'<<24 | 'v'<<16 | 'c'<<8 | '1'

	CodecAC3  Codec = 'a'<<24 | 'c'<<16 | '-'<<8 | '3'
	CodecEAC3 Codec = 'e'<<24 | 'c'<<16 | '-'<<8 | '3'
	CodecOpus Codec = 'O'<<24 | 'p'<<16 | 'u'<<8 | 's'
	CodecMP3  Codec = '.'<<24 | 'm'<<16 | 'p'<<8 | '3'
	CodecFLAC Codec = 'f'<<24 | 'L'<<16 | 'a'<<8 | 'C'
	CodecAAC  Codec = 'm'<<24 | 'p'<<16 | '4'<<8 | 'a'
)

// Codecs that only have a legacy id. Their FourCCs are our own and never sent.
const (
	CodecH263    Codec = 'h'<<24 | '2'<<16 | '6'<<8 | '3'
	CodecScreen  Codec = 'f'<<24 | 's'<<16 | 'v'<<8 | '1'
	CodecVP6     Codec = 'v'<<24 | 'p'<<16 | '6'<<8 | 'f'
	CodecVP6A    Codec = 'v'<<24 | 'p'<<16 | '6'<<8 | 'a'
	CodecScreen2 Codec = 'f'<<24 | 's'<<16 | 'v'<<8 | '2'
	CodecMPEG4   Codec = 'm'<<24 | 'p'<<16 | '4'<<8 | 'v'
	CodecAVS3    Codec = 'a'<<24 | 'v'<<16 | 's'<<8 | '3'

	CodecPCM        Codec = 'l'<<24 | 'p'<<16 | 'c'<<8 | 'm'
	CodecADPCM      Codec = 'a'<<24 | 'd'<<16 | 'p'<<8 | 'c'
	CodecNellymoser Codec = 'n'<<24 | 'e'<<16 | 'l'<<8 | 'l'
	CodecALaw       Codec = 'a'<<24 | 'l'<<16 | 'a'<<8 | 'w'
	CodecMuLaw      Codec = 'u'<<24 | 'l'<<16 | 'a'<<8 | 'w'
	CodecSpeex      Codec = 's'<<24 | 'p'<<16 | 'e'<<8 | 'x'
)

// legacyVideo maps CodecID (FLV, E.4.3.1). 9 is FFmpeg's; 12 to 15 are
// extensions of Chinese CDNs, encoders and cameras.
var legacyVideo = [16]Codec{
	2: CodecH263, 3: CodecScreen, 4: CodecVP6, 5: CodecVP6A, 6: CodecScreen2, 7: CodecAVC,
	9: CodecMPEG4, 12: CodecHEVC, 13: CodecAV1, 14: CodecAVS3, 15: CodecVVC,
}

// legacyAudio maps SoundFormat (FLV, E.4.2.1).
var legacyAudio = [16]Codec{
	0: CodecPCM, 1: CodecADPCM, 2: CodecMP3, 3: CodecPCM,
	4: CodecNellymoser, 5: CodecNellymoser, 6: CodecNellymoser,
	7: CodecALaw, 8: CodecMuLaw, 10: CodecAAC, 11: CodecSpeex, 14: CodecMP3,
}

// String returns the FourCC, such as "avc1", or the name of a codec without one ("speex",
// "nellymoser", "adpcm"). It returns a FourCC that is not printable ASCII in hexadecimal: it
// comes from a peer and may be logged.
func (c Codec) String() string {
	switch c {
	case 0:
		return "unknown"
	case CodecSpeex:
		return "speex"
	case CodecNellymoser:
		return "nellymoser"
	case CodecADPCM:
		return "adpcm"
	}
	b := [4]byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)}
	for _, x := range b {
		if x < ' ' || x > '~' {
			return fmt.Sprintf("0x%08x", uint32(c))
		}
	}
	return string(b[:])
}

// reorders reports whether coded frames begin with a composition time.
func (c Codec) reorders() bool {
	return c == CodecAVC || c == CodecHEVC || c == CodecVVC
}

// needsConfig reports whether a sequence header is useless without content. Opus may have an
// empty one. AC-3, E-AC-3, MP3, VP8 and VP9 can be decoded without one.
func (c Codec) needsConfig() bool {
	switch c {
	case CodecAVC, CodecHEVC, CodecVVC, CodecAV1, CodecAAC, CodecFLAC:
		return true
	}
	return false
}
