package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/endpoint"
	"github.com/rtmp-forward/forward/table"
)

// The JSON of a table's entries.
type (
	shownEntry struct {
		Name    string      `json:"name"`
		Stream  string      `json:"stream"`
		Pattern string      `json:"pattern,omitempty"`
		State   table.State `json:"state"`
		URL     string      `json:"url"`
		Changed time.Time   `json:"changed"`
		By      string      `json:"by"`
		Pushes  []shownPush `json:"pushes"`
	}
	shownPush struct {
		Source    string          `json:"source"`
		Live      bool            `json:"live"`
		Forwarder *shownForwarder `json:"forwarder,omitempty"`
		Message   string          `json:"message,omitempty"`
	}
)

// tablePaths returns the methods of the paths of a table.
func (h *handler) tablePaths() map[string]methods {
	return map[string]methods{
		"/destinations": {http.MethodGet: h.entries},
		"/destinations/{name}": {
			http.MethodGet: h.entry, http.MethodPut: h.putEntry, http.MethodDelete: h.deleteEntry,
		},
		"/destinations/{name}/enable":                {http.MethodPost: h.turn(table.On)},
		"/destinations/{name}/disable":               {http.MethodPost: h.turn(table.Off)},
		"/destinations/{name}/hold":                  {http.MethodPost: h.turn(table.Held)},
		"/destinations/{name}/live":                  {http.MethodPost: h.goLive},
		"/sources/{source}/destinations":             {http.MethodGet: h.entriesOf},
		"/sources/{source}/destinations/{name}/live": {http.MethodPost: h.goLiveOn},
	}
}

func (h *handler) entries(*http.Request) (int, any, error) {
	if err := h.needTable(); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"destinations": h.showEntries(h.table.Entries(), h.srv.Sources())}, nil
}

func (h *handler) entriesOf(r *http.Request) (int, any, error) {
	if err := h.needTable(); err != nil {
		return 0, nil, err
	}
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	var of []table.Entry
	for _, row := range h.table.Rows(src) {
		of = append(of, row.Entry)
	}
	return http.StatusOK, map[string]any{"destinations": h.showEntries(of, []*forward.Source{src})}, nil
}

func (h *handler) entry(r *http.Request) (int, any, error) {
	e, err := h.findEntry(r)
	if err != nil {
		return 0, nil, err
	}
	return h.answerEntry(http.StatusOK, e)
}

func (h *handler) putEntry(r *http.Request) (int, any, error) {
	if err := h.needTable(); err != nil {
		return 0, nil, err
	}
	e, err := h.readEntry(r)
	if err != nil {
		return 0, nil, err
	}
	status := http.StatusCreated
	if _, there := h.table.Entry(e.Name); there {
		status = http.StatusOK
	}
	if err := h.table.Put(r.Context(), e, author(r)); err != nil {
		return 0, nil, tableFailed(err)
	}
	e, _ = h.table.Entry(e.Name)
	return h.answerEntry(status, e)
}

func (h *handler) deleteEntry(r *http.Request) (int, any, error) {
	if err := h.needTable(); err != nil {
		return 0, nil, err
	}
	if err := h.table.Delete(r.Context(), r.PathValue("name"), author(r)); err != nil {
		return 0, nil, tableFailed(err)
	}
	return http.StatusNoContent, nil, nil
}

// turn returns the method that switches an entry.
func (h *handler) turn(to table.State) func(*http.Request) (int, any, error) {
	return func(r *http.Request) (int, any, error) {
		e, err := h.findEntry(r)
		if err != nil {
			return 0, nil, err
		}
		if err := h.table.Switch(r.Context(), e.Name, to, author(r)); err != nil {
			return 0, nil, tableFailed(err)
		}
		return h.entry(r)
	}
}

func (h *handler) goLive(r *http.Request) (int, any, error) { return h.live(r, h.srv.Sources()...) }

func (h *handler) goLiveOn(r *http.Request) (int, any, error) {
	if err := h.needTable(); err != nil {
		return 0, nil, err
	}
	src, err := h.findSource(r)
	if err != nil {
		return 0, nil, err
	}
	return h.live(r, src)
}

func (h *handler) live(r *http.Request, srcs ...*forward.Source) (int, any, error) {
	e, err := h.findEntry(r)
	if err != nil {
		return 0, nil, err
	}
	if len(srcs) == 0 {
		return 0, nil, tableFailed(table.ErrNotLive)
	}
	if err := h.table.GoLive(e.Name, author(r), srcs...); err != nil {
		return 0, nil, tableFailed(err)
	}
	return h.entry(r)
}

func (h *handler) needTable() error {
	if h.table == nil {
		return notFound("This server has no table of destinations.")
	}
	return nil
}

func (h *handler) findEntry(r *http.Request) (table.Entry, error) {
	if err := h.needTable(); err != nil {
		return table.Entry{}, err
	}
	e, ok := h.table.Entry(r.PathValue("name"))
	if !ok {
		return e, noEntry()
	}
	return e, nil
}

func noEntry() error { return notFound("The table has no destination of this name.") }

// author is the name of a request's author in the table.
func author(r *http.Request) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return strings.TrimSpace("control " + host)
}

// tableFailed returns the failure for an error of a table.
func tableFailed(err error) error {
	var fe *table.FileError
	switch {
	case errors.Is(err, table.ErrNotFound):
		return noEntry()
	case errors.Is(err, table.ErrNotHeld), errors.Is(err, table.ErrNotLive), errors.Is(err, table.ErrClosed):
		return &failure{"conflict", sentence(err)}
	case errors.As(err, &fe) && !errors.Is(err, forward.ErrLimit):
		return failed(err, "table_failed")
	}
	return failed(err, "bad_destination")
}

// readEntry reads the body of a request.
func (h *handler) readEntry(r *http.Request) (table.Entry, error) {
	body, err := readBody(r)
	if err != nil {
		return table.Entry{}, err
	}
	e := table.Entry{Name: r.PathValue("name"), Destination: h.named()}
	var options map[string]json.RawMessage
	for name, into := range map[string]any{"stream": &e.Stream, "state": &e.State, "destination": &options} {
		text, ok := body[name]
		if !ok {
			continue
		}
		if json.Unmarshal(text, into) != nil {
			return e, &failure{"bad_json", fmt.Sprintf("The field %s has the wrong type.", name)}
		}
		delete(body, name)
	}
	if err := setOptions(&e.Destination, options); err != nil {
		return e, err
	}
	if len(body)+len(options) > 0 {
		return e, &failure{"bad_json", "The body has a field that an entry or a destination does not have."}
	}
	return e, nil
}

func (h *handler) answerEntry(status int, e table.Entry) (int, any, error) {
	return status, h.showEntries([]table.Entry{e}, h.srv.Sources())[0], nil
}

// showEntries shows entries with their pushes of the given streams.
func (h *handler) showEntries(entries []table.Entry, srcs []*forward.Source) []shownEntry {
	pushes := make(map[string][]shownPush)
	for _, src := range srcs {
		for _, row := range h.table.Rows(src) {
			p := shownPush{Source: src.ID(), Live: row.Live}
			if row.Forwarder != nil {
				f := showForwarder(row.Forwarder)
				p.Forwarder = &f
			}
			if row.Err != nil {
				p.Message = sentence(row.Err)
			}
			pushes[row.Name] = append(pushes[row.Name], p)
		}
	}
	out := make([]shownEntry, 0, len(entries))
	for _, e := range entries {
		shown := shownEntry{
			Name: e.Name, Stream: maskedPattern(e.Stream), State: e.State, URL: e.Destination.String(),
			Changed: e.Changed, By: e.By, Pushes: pushes[e.Name],
		}
		if shown.Pushes == nil {
			shown.Pushes = []shownPush{}
		}
		if h.names {
			shown.Pattern = e.Stream
		}
		out = append(out, shown)
	}
	return out
}

// maskedPattern is a pattern for streams without what may be the name of one. A name is
// shown as in the log.
func maskedPattern(p string) string {
	vhost, path := "", p
	if rest, ok := strings.CutPrefix(p, "//"); ok {
		vhost, path, _ = strings.Cut(rest, "/")
	}
	at := strings.LastIndexByte(path, '/') + 1
	switch app, stream := path[:at], path[at:]; {
	case strings.HasPrefix(p, "~"):
		return "~" + endpoint.Masked
	case strings.Trim(stream, "*?") == "":
		return p
	case at > 0 && !strings.ContainsAny(path, "*?"):
		return fmt.Sprint(forward.Request{Vhost: vhost, App: app[:at-1], Stream: stream})
	default:
		return strings.TrimSuffix(p, stream) + endpoint.Masked
	}
}
