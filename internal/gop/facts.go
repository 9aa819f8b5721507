package gop

import (
	"sync/atomic"
	"time"
)

// Lag is how far a receiver is behind the head of a log.
type Lag struct {
	Messages uint64
	Bytes    int           // of the messages that are kept
	Media    time.Duration // from the first of them to the last, by their timestamps
	Age      time.Duration // since the first of them has arrived
}

// LagOf returns the lag of a receiver whose next message is seq. It is safe for
// concurrent use.
func (l *Log) LagOf(seq uint64, now int64) Lag {
	head := l.Head()
	if seq >= head {
		return Lag{}
	}
	lag := Lag{Messages: head - seq}
	first, last := l.Get(max(seq, l.tail.Load())), l.Get(head-1)
	if first == nil || last == nil {
		return lag // trimmed meanwhile
	}
	lag.Bytes = int(last.end-first.end) + first.Cost()
	lag.Media = time.Duration(max(int32(last.Time-first.Time), 0)) * time.Millisecond
	lag.Age = time.Duration(max(now-first.arrived, 0))
	return lag
}

// Key returns the last keyframe if it is kept, or nil.
func (l *Log) Key() *Message { return l.key.Load() }

// Headers returns the header set in force, or nil if nothing is kept. It is safe for
// concurrent use.
func (l *Log) Headers() *HeaderSet {
	if m := l.Get(l.Head() - 1); m != nil {
		return m.After
	}
	return nil
}

// Pictures describes the main video track, as far as it is known.
type Pictures struct {
	Frames    uint64
	Keyframes uint64
	// GOP is the time between the last two keyframes, GOPFrames the number of frames
	// from the first of them to the second. Both are 0 before the second keyframe.
	GOP       time.Duration
	GOPFrames int
}

// pictures counts for Pictures.
type pictures struct {
	frames, keyframes atomic.Uint64
	gop               atomic.Uint64 // milliseconds, and frames in the upper half

	// Owned by the appending goroutine.
	open  uint32 // frames of the current GOP; 0 before the first keyframe
	began uint32 // time of its keyframe
}

func (p *pictures) note(keyframe bool, ms uint32) {
	p.frames.Add(1)
	if keyframe {
		p.keyframes.Add(1)
		if p.open > 0 {
			p.gop.Store(uint64(p.open)<<32 | uint64(max(int32(ms-p.began), 0)))
		}
		p.open, p.began = 0, ms
	} else if p.open == 0 {
		return // no keyframe has come
	}
	p.open++
}

// Pictures describes the main video track now. It is safe for concurrent use.
func (l *Log) Pictures() Pictures {
	gop := l.pictures.gop.Load()
	return Pictures{
		Frames: l.pictures.frames.Load(), Keyframes: l.pictures.keyframes.Load(),
		GOP: time.Duration(uint32(gop)) * time.Millisecond, GOPFrames: int(gop >> 32),
	}
}
