package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4"
	"github.com/bluenviron/mediacommon/v2/pkg/formats/fmp4/seekablebuffer"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
	"github.com/rtmp-forward/forward/internal/hostcode"
)

const (
	// probeTime is how long, in milliseconds of media, the second track is waited for.
	probeTime = 1000
	// settled is the age from which on a stream has all its tracks.
	settled = 3 * time.Second
	// keptBytes and keptFor bound what a muxer keeps for viewers that lag. For new ones it
	// keeps everything from the last keyframe, within keptBytes.
	keptBytes = 8 << 20
	keptFor   = 5 * time.Second
	// mostSamples ends a fragment.
	mostSamples = 64
	// maxDrift is how far, in milliseconds, the time of audio that its durations add up to
	// may be from its timestamps. Timestamps are rounded.
	maxDrift = 100
	// restartStep is from how many milliseconds on timestamps that go back begin another
	// timeline, which needs another MP4.
	restartStep = 10_000
)

var (
	errChanged = errors.New("the codecs or the timeline have changed")
)

// muxers are the muxers of a server's streams. There is one for each stream that somebody
// watches as MP4.
type muxers struct {
	log *slog.Logger
	mu  sync.Mutex
	of  map[*forward.Source]*muxer
}

// acquire returns the muxer of a stream, which release gives back.
func (ms *muxers) acquire(src *forward.Source) *muxer {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.of[src]
	if m == nil || m.isOver() {
		m = &muxer{src: src, log: ms.log, wake: make(chan struct{})}
		var ctx context.Context
		ctx, m.cancel = context.WithCancel(context.Background())
		if ms.of == nil {
			ms.of = make(map[*forward.Source]*muxer)
		}
		ms.of[src] = m
		go m.run(ctx)
	}
	m.viewers++
	return m
}

// count returns how many streams have a muxer.
func (ms *muxers) count() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.of)
}

func (ms *muxers) release(m *muxer) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m.viewers--; m.viewers > 0 {
		return
	}
	m.cancel()
	if ms.of[m.src] == m {
		delete(ms.of, m.src)
	}
}

// muxer makes MP4 of a stream, once for all viewers. It is a log of fragments; each viewer
// has a place in it.
type muxer struct {
	src     *forward.Source
	log     *slog.Logger
	cancel  context.CancelFunc
	viewers int // guarded by muxers.mu

	mu    sync.Mutex
	wake  chan struct{} // closed when something has changed
	init  []byte        // the init segment
	mime  string        // nil until init is made
	kept  []fragment
	tail  uint64 // the number of the first fragment kept
	bytes int    // of kept
	err   error  // why there is no more

	// Owned by run.
	tracks  [2]*track // video and audio
	needKey bool
	started bool
	first   uint32 // the time of the first media
	seen    bool   // first is set
	last    uint32 // the time of the last message
	now     int64  // last, without the wrap
	number  uint32 // of the next fragment
	samples int    // in pending
	pending [2]*fmp4.PartTrack
	key     bool // pending begins with a keyframe
}

// fragment is one that a viewer may get.
type fragment struct {
	data    []byte
	key     bool // a viewer may begin with it
	arrived time.Time
}

func (m *muxer) isOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

// run reads the stream until nobody watches.
func (m *muxer) run(ctx context.Context) {
	err := io.EOF
	if perr := hostcode.Protect(func() { err = m.read(ctx) }); perr != nil { // the library has met what it does not expect
		m.log.Error("MP4", "source", fmt.Sprint(m.src), "err", perr)
		err = perr
	}
	m.mu.Lock()
	m.err = err
	close(m.wake)
	m.wake = make(chan struct{})
	m.mu.Unlock()
}

func (m *muxer) read(ctx context.Context) error {
	sub := m.src.Subscribe(ctx)
	defer sub.Close()
	m.needKey = true
	for {
		msg, err := sub.Next()
		if err != nil {
			m.flush(true)
			return err
		}
		if err := m.message(msg); err != nil {
			m.flush(true)
			return err
		}
		if sub.Pending() == 0 || m.samples >= mostSamples {
			m.flush(false)
		}
	}
}

// message adds a message.
func (m *muxer) message(msg forward.Message) error {
	kind := 0
	switch msg.Type {
	case forward.TagVideo:
	case forward.TagAudio:
		kind = 1
	default:
		return nil
	}
	for t := range flv.Tracks(msg.Type, msg.Payload) {
		if t.ID != 0 {
			continue // not the main track
		}
		body := msg.Payload[t.Offset : t.Offset+t.Size]
		switch t.Kind {
		case flv.KindSequenceHeader:
			return m.header(kind, t.Codec, body)
		case flv.KindFrame, flv.KindKeyframe:
			composition, body := compositionTime(msg, t, body)
			return m.frame(kind, t.Codec, body, msg.Timestamp, composition, t.Kind == flv.KindKeyframe)
		}
		return nil
	}
	return nil
}

// compositionTime returns the composition time of a frame, and the frame without it.
func compositionTime(msg forward.Message, t flv.Track, body []byte) (ms int32, frame []byte) {
	at := body
	switch enhanced := msg.Payload[0]&0x80 != 0; {
	case msg.Type != forward.TagVideo:
		return 0, body
	case !enhanced && t.Offset >= 5: // in the form of AVC, before the payload
		at = msg.Payload[2:5]
	case enhanced && t.PacketType == 1 && (t.Codec == flv.CodecAVC || t.Codec == flv.CodecHEVC):
		body = body[3:]
	default:
		return 0, body
	}
	return int32(uint32(at[0])<<24|uint32(at[1])<<16|uint32(at[2])<<8) >> 8, body
}

// header takes a sequence header.
func (m *muxer) header(kind int, codec flv.Codec, config []byte) error {
	t, err := newTrack(kind+1, codec, config, nil)
	if errors.Is(err, errNeedsFrame) {
		return nil // comes with the first frame
	}
	old := m.tracks[kind]
	switch {
	case err != nil && old == nil:
		return nil // without this track
	case err != nil:
		return errChanged
	case old != nil && old.fingerprint() == t.fingerprint():
		return nil
	case m.started:
		return errChanged
	}
	m.tracks[kind] = t
	return nil
}

// frame takes coded media.
func (m *muxer) frame(kind int, codec flv.Codec, body []byte, ms uint32, composition int32, key bool) error {
	if m.started && int32(ms-m.last) < -restartStep {
		return errChanged
	}
	at := m.clock(ms)
	t := m.tracks[kind]
	switch {
	case t != nil && t.codec != codec && m.started:
		return errChanged
	case t == nil || t.codec != codec:
		fresh, err := newTrack(kind+1, codec, nil, body)
		switch {
		case err != nil && m.started:
			return nil // a track that MP4 is not made of here
		case err != nil:
			return m.start(ms)
		case m.started:
			return errChanged
		}
		t, m.tracks[kind] = fresh, fresh
	}
	if err := m.start(ms); err != nil {
		return err
	}
	if !m.started {
		// Until it is known what tracks there are, only video is kept, from its keyframe on.
		if kind == 1 {
			return nil
		}
	}
	if kind == 1 {
		m.audio(t, body, at)
		return nil
	}
	if m.needKey && !key {
		return nil
	}
	m.needKey = false
	return m.video(t, body, at, composition, key)
}

// start makes the init segment if it is known what tracks there are.
func (m *muxer) start(ms uint32) error {
	if m.started {
		return nil
	}
	if !m.seen {
		m.seen, m.first = true, ms
	}
	video, audio := m.tracks[0], m.tracks[1]
	st := m.src.Stats()
	old := time.Since(st.Since) > settled
	wait := (video == nil && (st.VideoCodec != "" || !old)) || (audio == nil && (st.AudioCodec != "" || !old))
	if wait && int32(ms-m.first) < probeTime {
		return nil
	}
	if video == nil && audio == nil {
		return errUnsupported
	}
	var init fmp4.Init
	var names []string
	mime := "audio/mp4"
	for _, t := range m.tracks {
		if t != nil {
			track := t.InitTrack
			init.Tracks = append(init.Tracks, &track)
			names = append(names, t.name)
		}
	}
	if video != nil {
		mime = "video/mp4"
	}
	var out seekablebuffer.Buffer
	if err := init.Marshal(&out); err != nil {
		return fmt.Errorf("%w: %w", errUnsupported, err)
	}
	m.started = true
	m.mu.Lock()
	m.init = out.Bytes()
	m.mime = fmt.Sprintf("%s; codecs=%q", mime, strings.Join(names, ","))
	close(m.wake)
	m.wake = make(chan struct{})
	m.mu.Unlock()
	return nil
}

// clock returns a timestamp without the wrap at 2^32 milliseconds.
func (m *muxer) clock(ms uint32) int64 {
	if m.now == 0 && m.last == 0 {
		m.now = int64(ms)
	} else {
		m.now = max(m.now+int64(int32(ms-m.last)), 0)
	}
	m.last = ms
	return m.now
}

// video adds a frame, and with it the duration of the one before.
func (m *muxer) video(t *track, body []byte, at int64, composition int32, key bool) error {
	now := uint64(at) * videoScale / 1000
	if t.begun && now <= t.heldAt {
		now = t.heldAt + videoScale/1000 // times do not go back
	}
	t.begun = true
	m.release(t, now)
	if key {
		m.flush(false) // a fragment begins with a keyframe
	}
	payload, err := t.payload(body, key)
	if err != nil {
		return nil // a broken frame
	}
	t.held = &fmp4.Sample{PTSOffset: composition * (videoScale / 1000), IsNonSyncSample: !key, Payload: payload}
	t.heldAt = now
	return nil
}

// release adds the frame that is held, which lasts until now.
func (m *muxer) release(t *track, now uint64) {
	s := t.held
	if s == nil {
		return
	}
	t.held = nil
	if now > t.heldAt && now-t.heldAt < 10*videoScale {
		t.lasting = uint32(now - t.heldAt)
	}
	s.Duration = max(t.lasting, 1)
	m.add(0, t.heldAt, s)
}

// audio adds a frame.
func (m *muxer) audio(t *track, body []byte, at int64) {
	now := uint64(at) * uint64(t.TimeScale) / 1000
	drift := int64(now) - int64(t.next)
	limit := int64(t.TimeScale) * maxDrift / 1000
	switch {
	case !t.begun || drift > limit:
		t.begun, t.next = true, now
	case drift < -limit:
		return // times do not go back
	}
	s := &fmp4.Sample{Duration: t.duration(body), Payload: body}
	m.add(1, t.next, s)
	t.next += uint64(s.Duration)
}

// add adds a sample to the pending fragment. Samples that do not follow one another are in
// different fragments.
func (m *muxer) add(kind int, at uint64, s *fmp4.Sample) {
	p := m.pending[kind]
	if p != nil {
		end := p.BaseTime
		for _, s := range p.Samples {
			end += uint64(s.Duration)
		}
		if end != at {
			m.flush(false)
			p = nil
		}
	}
	if p == nil {
		p = &fmp4.PartTrack{ID: kind + 1, BaseTime: at}
		m.pending[kind] = p
	}
	if kind == 0 && !s.IsNonSyncSample {
		m.key = true
	}
	p.Samples = append(p.Samples, s)
	m.samples++
}

// flush makes a fragment of what is pending: at the end with the frame that is held.
func (m *muxer) flush(end bool) {
	if !m.started {
		return
	}
	if t := m.tracks[0]; end && t != nil {
		m.release(t, 0)
	}
	if m.samples == 0 {
		return
	}
	part := fmp4.Part{SequenceNumber: m.number}
	for _, p := range m.pending {
		if p != nil {
			part.Tracks = append(part.Tracks, p)
		}
	}
	f := fragment{key: m.key || m.tracks[0] == nil, arrived: time.Now()}
	m.pending, m.samples, m.key = [2]*fmp4.PartTrack{}, 0, false
	m.number++
	var out seekablebuffer.Buffer
	if part.Marshal(&out) != nil {
		return
	}
	f.data = out.Bytes()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, f)
	m.bytes += len(f.data)
	m.trim(f.arrived)
	close(m.wake)
	m.wake = make(chan struct{})
}

// trim drops fragments that nobody needs, or that are too many. mu is held.
func (m *muxer) trim(now time.Time) {
	key := m.lastKey()
	n := 0
	for n < len(m.kept)-1 && (m.bytes > keptBytes || n < key && now.Sub(m.kept[n].arrived) > keptFor) {
		m.bytes -= len(m.kept[n].data)
		n++
	}
	clear(m.kept[:n])
	m.kept = m.kept[n:]
	m.tail += uint64(n)
}

// lastKey is the place in kept where a viewer may begin, or the end. mu is held.
func (m *muxer) lastKey() int {
	for i := len(m.kept) - 1; i >= 0; i-- {
		if m.kept[i].key {
			return i
		}
	}
	return len(m.kept)
}

// ready waits for the init segment and returns it with its type.
func (m *muxer) ready(ctx context.Context) (init []byte, mime string, err error) {
	for {
		m.mu.Lock()
		init, mime, err = m.init, m.mime, m.err
		wake := m.wake
		m.mu.Unlock()
		switch {
		case init != nil:
			return init, mime, nil
		case err != nil:
			return nil, "", err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, "", ctx.Err()
		}
	}
}

// place is where a viewer is in the fragments.
type place struct {
	next  uint64
	begun bool
}

// place gives a viewer its place.
func (m *muxer) place(at *place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.placeLocked(at)
}

// placeLocked gives a viewer that has no place, or has lost it, that of the last keyframe.
// If there is none the viewer waits. mu is held.
func (m *muxer) placeLocked(at *place) {
	if at.begun && at.next >= m.tail {
		return
	}
	key := m.lastKey()
	at.next, at.begun = m.tail+uint64(key), key < len(m.kept)
}

// fragments waits for the next fragments of a viewer. One that lags too far goes on with
// the last keyframe.
func (m *muxer) fragments(ctx context.Context, at *place) ([][]byte, error) {
	for {
		m.mu.Lock()
		m.placeLocked(at)
		var out [][]byte
		if at.begun {
			for _, f := range m.kept[at.next-m.tail:] {
				out = append(out, f.data)
			}
			at.next += uint64(len(out))
		}
		wake, err := m.wake, m.err
		m.mu.Unlock()
		switch {
		case len(out) > 0:
			return out, nil
		case err != nil:
			return nil, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
