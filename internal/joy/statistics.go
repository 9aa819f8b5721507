package joy

import (
	"fmt"

	"github.com/rtmp-forward/forward/internal/flv"
)

// Statistics describes a stream by its sequence header. Unknown fields are zero.
type Statistics struct {
	Codec flv.Codec
	// Width and Height are in pixels, after cropping. joy4 computes the cropping for
	// progressive video with 4:2:0 chroma; for interlaced video it is wrong by some lines.
	Width, Height int
	// Profile is the H.264 profile, such as "High", or "profile 44" for one without a name.
	Profile string
	// SampleRate is in Hz. Channels is the number of channels. For HE-AAC both are those of
	// the core, without SBR and PS.
	SampleRate, Channels int
}

// ParseStatistics reads the sequence header of H.264 or AAC in a message's body. For any other
// message, including headers of flv.KindNone, it returns the zero value. It does not keep
// body.
func ParseStatistics(typ uint8, body []byte) (Statistics, error) {
	for part := range flv.Tracks(typ, body) {
		if part.Kind != flv.KindSequenceHeader {
			continue
		}
		switch {
		case part.Codec == flv.CodecAVC && typ == flv.TypeVideo:
			return avcStatistics(payload(part, body))
		case part.Codec == flv.CodecAAC && typ == flv.TypeAudio:
			return aacStatistics(payload(part, body))
		}
	}
	return Statistics{}, nil
}

func avcStatistics(record []byte) (Statistics, error) {
	c, err := parseAVC(record)
	if err != nil {
		return Statistics{}, err
	}
	return Statistics{
		Codec: flv.CodecAVC, Width: c.Width(), Height: c.Height(),
		Profile: profile(c.RecordInfo.AVCProfileIndication, c.RecordInfo.ProfileCompatibility),
	}, nil
}

func aacStatistics(config []byte) (Statistics, error) {
	c, err := parseAAC(config)
	if err != nil {
		return Statistics{}, err
	}
	return Statistics{Codec: flv.CodecAAC, SampleRate: c.SampleRate(), Channels: c.ChannelLayout().Count()}, nil
}

// profile returns the name of an H.264 profile (H.264, A.2).
func profile(idc, constraints uint8) string {
	switch {
	case idc == 66 && constraints&0x40 != 0:
		return "Constrained Baseline"
	case idc == 66:
		return "Baseline"
	case idc == 77:
		return "Main"
	case idc == 88:
		return "Extended"
	case idc == 100:
		return "High"
	case idc == 110:
		return "High 10"
	case idc == 122:
		return "High 4:2:2"
	case idc == 244:
		return "High 4:4:4 Predictive"
	}
	return fmt.Sprintf("profile %d", idc)
}
