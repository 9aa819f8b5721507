package joy

import (
	"fmt"

	"github.com/rtmp-forward/forward/internal/flv"
)

// Statistics is what a sequence header tells of its stream. What it does not
// tell is zero.
type Statistics struct {
	Codec flv.Codec
	// Width and Height are in pixels, after cropping; joy4 computes it for
	// progressive video with 4:2:0 chroma, and some lines off for interlaced.
	Width, Height int
	// Profile is H.264's, such as "High"; "profile 44" for one without a name.
	Profile string
	// SampleRate is in Hz and Channels the number of channels; of HE-AAC, of
	// the core beneath SBR and PS.
	SampleRate, Channels int
}

// ParseStatistics reads the sequence header of H.264 or AAC in a message's
// body. Any other message, flv.KindNone headers included, gives the zero value.
// It keeps nothing of body.
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

// profile names an H.264 profile (H.264, A.2).
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
