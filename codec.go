package forward

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/rtmp"
	"github.com/rtmp-forward/forward/internal/upstream"
)

// UnsupportedCodecError says that the stream has a codec that the destination does not
// list in its answer to connect (Enhanced RTMP v2, Enhancing NetConnection connect
// Command: fourCcList, videoFourCcInfoMap, audioFourCcInfoMap), or that its platform
// does not accept.
//
// The stream is sent nevertheless: the specification lets servers list codecs but does
// not make them refuse others, and some servers list fewer codecs than they accept. So
// the error is only a warning (ForwarderStats.Warning). If the destination ends such a
// connection before Backoff.Healthy, the error becomes the cause of the loss, and the
// next delay is that after a refusal.
type UnsupportedCodecError struct {
	Codec string // the FourCC, such as hvc1

	platform string
}

func (e *UnsupportedCodecError) Error() string {
	if e.platform != "" {
		return fmt.Sprintf("%s is not among the codecs that %s takes", e.Codec, e.platform)
	}
	return fmt.Sprintf("%s is not among the codecs that the destination lists", e.Codec)
}

// errNoAudio says that the stream has no audio although the platform needs it.
var errNoAudio = errors.New("the stream has no audio, which the platform needs")

// codecsKnown is how long after the answer to publish the codecs are still compared. The
// first destinations publish before the first message arrives.
const codecsKnown = 5 * time.Second

// untaken returns an *UnsupportedCodecError if a known codec of the stream is not among
// those that the server lists. Codecs that exist without Enhanced RTMP need not be
// listed.
func (t *target) untaken(c *rtmp.Client) error {
	info := t.src.log.Info()
	if p := t.Endpoint.Profile; p != nil && p.Video != 0 && info.Video != 0 && info.Video != p.Video {
		return &UnsupportedCodecError{info.Video.String(), p.Title}
	}
	switch info.Video {
	case flv.CodecHEVC, flv.CodecAV1, flv.CodecVP9, flv.CodecVP8, flv.CodecVVC:
		if !c.Takes(false, info.Video.String()) {
			return &UnsupportedCodecError{Codec: info.Video.String()}
		}
	}
	switch info.Audio {
	case flv.CodecOpus, flv.CodecFLAC, flv.CodecAC3, flv.CodecEAC3:
		if !c.Takes(true, info.Audio.String()) {
			return &UnsupportedCodecError{Codec: info.Audio.String()}
		}
	}
	return nil
}

// missing returns errNoAudio as soon as it is certain that audio is missing.
func (t *target) missing() error {
	info := t.src.log.Info()
	if p := t.Endpoint.Profile; p == nil || !p.Audio || info.Audio != 0 || info.Video == 0 || time.Since(t.src.began) < codecsKnown {
		return nil
	}
	return errNoAudio
}

// untakenBy returns the error of untaken for l, if l is not nil, or else that of missing.
func (t *target) untakenBy(l *upstream.Link) error {
	if l != nil {
		if err := t.untaken(l.Client); err != nil {
			return err
		}
	}
	return t.missing()
}

// warnOfCodec logs the error of untakenBy, once for each target.
func (t *target) warnOfCodec(l *upstream.Link) {
	if err := t.untakenBy(l); err != nil && !t.warned.Swap(true) {
		t.Log.Warn("destination may not accept everything", "warning", err)
	}
}

// changeInterval is the shortest time between two calls of OnCodecChange for a stream.
const changeInterval = time.Second

// codecChanges counts the changes of a Source's sequence headers, and reports them.
type codecChanges struct {
	src   *Source
	count atomic.Uint64
	tells atomic.Bool // a goroutine is in tell
	told  uint64      // owned by that goroutine
}

// note counts a change and has it reported.
func (c *codecChanges) note() {
	c.count.Add(1)
	if !c.tells.Swap(true) {
		c.src.background(c.tell)
	}
}

// tell logs changes and calls OnCodecChange until all of them are reported.
func (c *codecChanges) tell() {
	s := c.src
	for s.publishing.Err() == nil {
		if n := c.count.Load(); n != c.told {
			c.told = n
			st := s.Stats()
			s.report(nil, Event{Kind: EventCodec, VideoCodec: st.VideoCodec, AudioCodec: st.AudioCodec})
			if f := s.cfg.Hooks.OnCodecChange; f != nil {
				s.srv.calls.do("OnCodecChange", func() error { f(s); return nil })
			}
			select {
			case <-s.publishing.Done():
			case <-time.After(changeInterval):
			}
			continue
		}
		told := c.told // another goroutine may own it after the next statement
		c.tells.Store(false)
		if c.count.Load() == told || c.tells.Swap(true) {
			return
		}
	}
}
