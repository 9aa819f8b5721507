package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/internal/pattern"
	"github.com/rtmp-forward/forward/internal/rtmp"
)

// Limits of a Table.
const (
	// MaxEntries is how many entries a Table may have.
	MaxEntries = 1000

	maxName   = 64   // bytes
	maxStream = 1024 // bytes
	maxBy     = 256  // bytes
)

// State says whether an entry's destination gets the streams of the entry.
type State string

// The states of an entry.
const (
	// Off: it gets nothing.
	Off State = "off"
	// On: it gets every stream from its publish on.
	On State = "on"
	// Held: it gets a live stream from GoLive on, until the stream ends. The next publish
	// begins without it.
	Held State = "held"
)

// Entry is a destination of a Table.
type Entry struct {
	// Name identifies the entry: 1 to 64 letters, digits, ".", "_" and "-", beginning
	// with a letter or digit. It is shown in answers and logs, so it must not be a
	// stream key.
	Name string

	// Stream is the name of a stream (see forward.Request.Name) or a pattern for such
	// names, of at most 1,024 bytes. In a pattern "*" stands for any characters, "/"
	// included, and "?" for one. "live/cam" is a stream of the default vhost,
	// "//studio.example/live/*" are streams of another one, and "//*/*" are all streams
	// of all vhosts. Vhosts match in any case. After "~" stands a regular expression of
	// package regexp, which must match the whole name.
	Stream string

	// Destination is where the streams go. Its URL has one of the forms of
	// forward.Static, with placeholders; the other fields apply unchanged. It pushes to
	// the same place as a destination that another part of the host has added to the
	// stream only when that one has ended.
	Destination forward.Destination

	// State is On, Off or Held. An empty State is Off in a new entry, and that of the
	// entry that is replaced.
	State State

	// Changed and By are the time of the last change, and the name of its author (see
	// the methods of Table). The Table sets them.
	Changed time.Time
	By      string
}

// Format writes name, state and destination, for every verb. Stream is left out because
// the name of a stream may be a stream key.
func (e Entry) Format(f fmt.State, _ rune) { io.WriteString(f, e.text()) }

// MarshalText gives the same as Format.
func (e Entry) MarshalText() ([]byte, error) { return []byte(e.text()), nil }

func (e Entry) text() string { return fmt.Sprintf("%s %s %s", e.Name, e.State, e.Destination) }

// Validate reports what is wrong with e, or nil. The error contains no secret.
func (e Entry) Validate() error {
	_, err := compile(e)
	return err
}

// item is a compiled entry. It is not changed.
type item struct {
	Entry
	covers func(stream string) bool
	to     forward.DestinationResolver
	put    uint64 // changes with each Put
	turned uint64 // changes with each Switch, and with a Put of another State
	text   []byte // in a file; nil if the Table has none
}

// compile checks an entry.
func compile(e Entry) (*item, error) {
	if err := checkName(e.Name); err != nil {
		return nil, err
	}
	i := &item{Entry: e}
	var err error
	if i.covers, err = streams(e.Stream); err != nil {
		return nil, fmt.Errorf("entry %s: stream: %w", e.Name, err)
	}
	if i.to, err = forward.StaticDestinations(e.Destination); err != nil {
		return nil, fmt.Errorf("entry %s: %w", e.Name, errors.Unwrap(err)) // without the position in a list
	}
	switch e.State {
	case Off, On, Held:
		return i, nil
	}
	return nil, fmt.Errorf("entry %s: unknown state %.16q, expected off, on or held", e.Name, string(e.State))
}

func checkName(name string) error {
	ok := name != "" && len(name) <= maxName && !strings.ContainsRune("._-", rune(name[0]))
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("entry: expected a name of 1 to %d letters, digits, dots, underscores and hyphens, beginning with a letter or digit", maxName)
	}
	return nil
}

// checkBy checks the name of a change's author.
func checkBy(by string) error {
	if len(by) > maxBy || endpoint.HasControl(by) || !utf8.ValidString(by) {
		return fmt.Errorf("author of a change: expected at most %d bytes of UTF-8 without control characters", maxBy)
	}
	return nil
}

// streams compiles Entry.Stream.
func streams(p string) (func(name string) bool, error) {
	if p == "" || len(p) > maxStream || endpoint.HasControl(p) || !utf8.ValidString(p) {
		return nil, fmt.Errorf("expected the name of a stream or a pattern, of 1 to %d bytes without control characters", maxStream)
	}
	if strings.HasPrefix(p, "~") {
		re, err := pattern.Compile(p, "")
		if err != nil {
			return nil, errors.New("not a regular expression") // err contains the pattern
		}
		return re.MatchString, nil
	}
	vhost, path, ok := rtmp.SplitName(p)
	if !ok || path == "" {
		return nil, errors.New("expected //vhost/app/stream")
	}
	ofVhost, ofPath := pattern.Glob(vhost, "i"), pattern.Glob(path, "")
	return func(name string) bool {
		vhost, path, ok := rtmp.SplitName(name)
		return ok && ofVhost.MatchString(vhost) && ofPath.MatchString(path)
	}, nil
}

// destination is where a stream goes.
func (i *item) destination(req *forward.Request) (forward.Destination, error) {
	ds, err := i.to.ResolveDestinations(context.Background(), req)
	if err != nil {
		return forward.Destination{}, err
	}
	return ds[0], nil
}
