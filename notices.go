package forward

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Lines that any client can cause must not fill the log: each cause may have a burst of
// lineBurst lines and one line every lineEvery. At most maxCauses causes are
// distinguished, because some contain a code that the host has chosen.
const (
	lineBurst = 4
	lineEvery = 30 * time.Second
	maxCauses = 64
)

// notices writes the lines that any client can cause. Use newNotices.
type notices struct {
	log *slog.Logger

	mu     sync.Mutex
	causes map[string]*causeLines
	closed bool
}

// causeLines are the lines of a cause.
type causeLines struct {
	level   slog.Level
	msg     string
	free    int // lines that may be written now
	leftOut int
	last    []any     // the attributes of the last line left out
	at      time.Time // when that line was left out
	stop    func()    // stops the timer that frees a line
}

func newNotices(log *slog.Logger) *notices {
	return &notices{log: log, causes: make(map[string]*causeLines)}
}

// write logs a line, unless its cause has used up its lines. A line that is left out
// counts in not_logged of a later one. The last line left out is written within
// lineEvery, with its own time, even if no other follows.
func (l *notices) write(level slog.Level, msg, cause string, args ...any) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	key := msg + "\x00" + cause
	c := l.causes[key]
	if c == nil && len(l.causes) >= maxCauses {
		key = msg + "\x00"
		c = l.causes[key]
	}
	if c == nil {
		c = &causeLines{level: level, msg: msg, free: lineBurst}
		l.causes[key] = c
		c.stop = later(lineEvery, func() { l.tick(key, c) })
	}
	if c.free == 0 {
		c.leftOut, c.last, c.at = c.leftOut+1, args, time.Now()
		l.mu.Unlock()
		l.log.Log(context.Background(), slog.LevelDebug, msg, args...)
		return
	}
	c.free--
	l.mu.Unlock()
	l.log.Log(context.Background(), level, msg, args...)
}

// tick frees a line and writes the last line left out. It forgets a cause without lines
// left out.
func (l *notices) tick(key string, c *causeLines) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	args := c.summaryLocked()
	if args == nil {
		c.free++
	}
	if c.free >= lineBurst {
		delete(l.causes, key)
	} else {
		c.stop = later(lineEvery, func() { l.tick(key, c) })
	}
	l.mu.Unlock()
	if args != nil {
		l.log.Log(context.Background(), c.level, c.msg, args...)
	}
}

// summaryLocked returns the attributes of the lines left out, nil if there are none, and
// resets the count. notices.mu is held.
func (c *causeLines) summaryLocked() []any {
	if c.leftOut == 0 {
		return nil
	}
	args := append(slices.Clip(c.last), "at", c.at)
	if c.leftOut > 1 {
		args = append(args, "not_logged", c.leftOut-1)
	}
	c.leftOut, c.last = 0, nil
	return args
}

// close writes the lines left out. Nothing is written after it.
func (l *notices) close() {
	l.mu.Lock()
	l.closed = true
	causes := l.causes
	l.causes = nil
	l.mu.Unlock()
	for _, c := range causes {
		c.stop()
		if args := c.summaryLocked(); args != nil {
			l.log.Log(context.Background(), c.level, c.msg, args...)
		}
	}
}
