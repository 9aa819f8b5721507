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

// codecs is what a peer says that it supports.
type codecs struct {
	list         []string // fourCcList; nil: none
	video, audio amf.Object
}

// audioFourCCs are those of Enhanced RTMP v2.
var audioFourCCs = []string{"ac-3", "ec-3", "Opus", ".mp3", "fLaC", "mp4a"}

// learn takes what connect's answer says, be it in its properties or its
// information.
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

// take reports whether the peer supports a codec, or says nothing about such
// ones. fourCcList, the older form, is about audio only where it holds some.
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

// Takes reports whether the server supports a codec, given by its FourCC, or
// has not said what it supports. It is to be asked after Publish.
func (c *Client) Takes(audio bool, fourCC string) bool { return c.codecs.take(audio, fourCC) }

// Codecs returns what the server lists, by FourCC; "*" stands for all. Both are empty if
// it lists nothing. It is to be called after connect has been answered.
func (c *Client) Codecs() (video, audio []string) { return c.codecs.names() }

// names returns what the peer lists: fourCcList counts for those kinds of which there is
// no map.
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
