// Package joy converts between joy4's packets and message bodies: from the calls of a joy4
// muxer to audio, video and data messages (Encoder), and from messages to the packets of a
// joy4 demuxer (Decoder).
//
// joy4 supports H.264, AAC and Speex in FLV. Any other codec is a *CodecError. joy4's parsers
// are only called through guard, because they were not written for input from the network.
// Their results are checked before they reach joy4's muxers, which do not check them.
//
// Sources: Adobe Flash Video File Format 10.1, annex E; ISO/IEC 14496-15,
// 5.2.4.1 (AVCDecoderConfigurationRecord); ISO/IEC 14496-3, 1.6.2.1
// (AudioSpecificConfig).
package joy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/codec/aacparser"
	"github.com/nareix/joy4/codec/h264parser"
)

// Errors of a Decoder.
var (
	// ErrProbing is the error while the streams are not known yet.
	ErrProbing = errors.New("streams not known yet")
	// ErrNoStreams is the error if the probe or the messages ended without a sequence
	// header or Speex frame.
	ErrNoStreams = errors.New("no sequence header")
	// ErrStreamsChanged is the error for a new stream, or a new sequence header of a known
	// one, which joy4's interface can't express. The messages are valid: a new Decoder
	// continues with the new headers.
	ErrStreamsChanged = errors.New("streams changed")
)

// errParser is the error for a parser's panic. It does not contain the panic's value, which
// may contain input.
var errParser = errors.New("parser panicked")

// CodecError is the error for a codec that joy4 does not support.
type CodecError struct {
	// Codec is the codec's FourCC, such as "hvc1", "av01", "Opus" or ".mp3", or joy4's name
	// for it.
	Codec string
}

func (e *CodecError) Error() string { return "codec not supported by joy4: " + e.Codec }

// guard calls f and returns errParser if it panics.
func guard(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errParser
		}
	}()
	return f()
}

// maxDimension limits a picture's width and height, in pixels: joy4's MP4 muxer stores them
// in signed 16 bits. No level of H.264 permits more than 16,880. A far larger value comes
// from an underflow in joy4's parser.
const maxDimension = 1<<15 - 1

// parseAVC reads an AVCDecoderConfigurationRecord, which it keeps.
func parseAVC(record []byte) (h264parser.CodecData, error) {
	c := h264parser.CodecData{Record: record}
	err := guard(func() error {
		if _, err := c.RecordInfo.Unmarshal(record); err != nil {
			return err
		}
		if len(c.RecordInfo.SPS) == 0 || len(c.RecordInfo.PPS) == 0 {
			return errors.New("no parameter sets")
		}
		// joy4 reads all lengths as four bytes.
		if n := c.RecordInfo.LengthSizeMinusOne + 1; n != nalLength {
			return fmt.Errorf("NAL unit lengths of %d bytes", n)
		}
		// joy4's own constructor reads the SPS without unescaping it.
		info, err := h264parser.ParseSPS(unescape(c.RecordInfo.SPS[0]))
		c.SPSInfo = info
		return err
	})
	if err == nil && (!plausible(c.SPSInfo.Width) || !plausible(c.SPSInfo.Height)) {
		err = errors.New("impossible frame size")
	}
	if err != nil {
		return h264parser.CodecData{}, fmt.Errorf("AVC sequence header: %w", err)
	}
	return c, nil
}

// nalLength is the size of the length before each NAL unit.
const nalLength = 4

// wholeNALU reports whether a frame begins with a complete NAL unit. joy4's TS muxer panics if
// the unit's length exceeds the frame by less than the size of the length.
func wholeNALU(frame []byte) bool {
	return len(frame) >= nalLength && uint64(binary.BigEndian.Uint32(frame)) <= uint64(len(frame)-nalLength)
}

func plausible(dimension uint) bool { return dimension > 0 && dimension <= maxDimension }

// unescape returns a NAL unit without its emulation prevention bytes (H.264,
// 7.4.1.1).
func unescape(nalu []byte) []byte {
	rbsp := make([]byte, 0, len(nalu))
	zeros := 0
	for _, b := range nalu {
		if zeros >= 2 && b == 3 {
			zeros = 0
			continue
		}
		if zeros++; b != 0 {
			zeros = 0
		}
		rbsp = append(rbsp, b)
	}
	return rbsp
}

// Values of AudioSpecificConfig (ISO/IEC 14496-3, 1.5.1.1 and 1.6.3.4). joy4's constants from
// 12 on are wrong.
const (
	objectLC      = 2
	objectSBR     = 5
	objectPS      = 29
	explicitRate  = 0xf
	maxSampleRate = 192000
)

// parseAAC reads an AudioSpecificConfig, which it keeps.
func parseAAC(config []byte) (aacparser.CodecData, error) {
	c := aacparser.CodecData{ConfigBytes: config}
	err := guard(func() (err error) {
		c.Config, err = aacparser.ParseMPEG4AudioConfigBytes(config)
		return err
	})
	if err != nil {
		return aacparser.CodecData{}, fmt.Errorf("AAC sequence header: %w", err)
	}
	// joy4 returns an explicit rate as the index, and later divides by the rate, 0.
	if c.Config.SampleRate == 0 && c.Config.SampleRateIndex > explicitRate {
		c.Config.SampleRate = int(c.Config.SampleRateIndex)
	}
	if c.Config.SampleRate <= 0 || c.Config.SampleRate > maxSampleRate {
		return aacparser.CodecData{}, errors.New("AAC sequence header: impossible sample rate")
	}
	// joy4's TS muxer writes the type into two bits of an ADTS header, which can't hold SBR
	// or PS. In ADTS they are signalled implicitly, with type LC.
	if t := c.Config.ObjectType; t == objectSBR || t == objectPS {
		c.Config.ObjectType = objectLC
	}
	return c, nil
}

// Both of joy4's interfaces, in case the host has a type of its own.
var (
	_ avcStream = h264parser.CodecData{}
	_ aacStream = aacparser.CodecData{}
)

type avcStream interface {
	av.VideoCodecData
	AVCDecoderConfRecordBytes() []byte
}

type aacStream interface {
	av.AudioCodecData
	MPEG4AudioConfigBytes() []byte
}
