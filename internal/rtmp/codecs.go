package rtmp

import (
	"slices"

	"github.com/rtmp-forward/forward/internal/amf"
)

// Bits of the flags in FourCcInfoMaps (Enhanced RTMP v2, Enhancing
// NetConnection connect Command).
const (
	canDecode  = 1
	canForward = 4
)

// codecs holds the codecs that a peer lists as supported.
type codecs struct {
	list         []string // fourCcList; nil if there is none
	video, audio amf.Object
}

// audioFourCCs are the audio codecs of Enhanced RTMP v2.
var audioFourCCs = []string{"ac-3", "ec-3", "Opus", ".mp3", "fLaC", "mp4a"}

// learn reads the lists in the answer to connect, from both its properties and its
// information object.
func (c *codecs) learn(cmd *Command) {
	for _, a := range cmd.Args {
		o, _ := amf.AsObject(a)
		if v, ok := o.Get("fourCcList"); ok {
			list, _ := v.(amf.StrictArray)
			for _, v := range list {
				if s, ok := v.(string); ok {
					c.list = append(c.list, s)
				}
			}
		}
		for key, to := range map[string]*amf.Object{"videoFourCcInfoMap": &c.video, "audioFourCcInfoMap": &c.audio} {
			v, _ := o.Get(key)
			if m, ok := amf.AsObject(v); ok {
				*to = m
			}
		}
	}
}

// take reports whether the peer supports a codec, or lists none of its kind. fourCcList,
// the older form, restricts audio only if it contains an audio codec.
func (c *codecs) take(audio bool, fourCC string) bool {
	m := c.video
	if audio {
		m = c.audio
	}
	if len(m) > 0 {
		for _, key := range []string{"*", fourCC} {
			v, ok := m.Get(key)
			flags, isNumber := v.(float64)
			if ok && (!isNumber || int64(flags)&(canDecode|canForward) != 0) {
				return true
			}
		}
		return false
	}
	about := slices.ContainsFunc(c.list, func(s string) bool { return slices.Contains(audioFourCCs, s) == audio })
	return !about || slices.Contains(c.list, "*") || slices.Contains(c.list, fourCC)
}

// Takes reports whether the server supports the codec with this FourCC, or lists no codec
// of its kind. Call it after Publish.
func (c *Client) Takes(audio bool, fourCC string) bool { return c.codecs.take(audio, fourCC) }

// Codecs returns the FourCCs that the server lists; "*" stands for all. Both are empty if
// it lists none. Call it after connect has been answered.
func (c *Client) Codecs() (video, audio []string) { return c.codecs.names() }

// names returns the FourCCs that the peer lists. fourCcList counts only for a kind, audio
// or video, that has no map.
func (c *codecs) names() (video, audio []string) {
	for to, m := range map[*[]string]amf.Object{&video: c.video, &audio: c.audio} {
		for _, p := range m {
			if c.take(to == &audio, p.Key) && !slices.Contains(*to, p.Key) {
				*to = append(*to, p.Key)
			}
		}
	}
	for _, name := range c.list {
		isAudio := slices.Contains(audioFourCCs, name)
		if len(c.video) == 0 && !isAudio && !slices.Contains(video, name) {
			video = append(video, name)
		}
		if len(c.audio) == 0 && (isAudio || name == "*") && !slices.Contains(audio, name) {
			audio = append(audio, name)
		}
	}
	return video, audio
}
