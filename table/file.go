package table

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
)

const (
	version = 1
	// maxFile bounds the file, in bytes.
	maxFile = 8 << 20

	groupMay  = 0o060
	othersMay = 0o007
)

var (
	// ErrDamaged is wrapped by the error of a file that is not a whole table: it is
	// empty, cut off or changed, or was written by a later version.
	ErrDamaged = errors.New("not a whole table")
	// ErrExposed is wrapped by the error of a file that every user of the machine may
	// read or write.
	ErrExposed = errors.New("every user may read or write it")
	// ErrInUse is wrapped by the error of a file that another Table has open, in this
	// process or another.
	ErrInUse = errors.New("in use by another process or table")
)

// FileError is an error of a Table's file. It contains nothing from the file.
type FileError struct {
	Path string // as given to Open
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("forward: table %s: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }

// Open returns a Table that is kept in a file. If there is no such file, Open creates it;
// its directory must exist. The file is JSON, has at most 8 MiB, contains the stream keys
// and passwords of the entries, and only its owner may read it (mode 0600). A file that
// every user may read or write is refused, and one that its group may read or write is
// logged. A file that is damaged is an error and is left as it is.
//
// Each change replaces the file by a new one that is complete and on the disk, so after a
// crash the file is either that before or that after the change. The path must not be on a
// file system without atomic renames. Another file, with ".lock" after the path, keeps a
// second Table from opening the same path until Close or the end of the process.
//
// A Table with a file takes only Destinations without TLSConfig and DialContext, whose
// durations are whole milliseconds. Errors are a *FileError.
func Open(path string, o Options) (*Table, error) {
	t := New(o)
	f := &file{path: path, to: path, log: t.log}
	items, err := f.open(t)
	if err != nil {
		f.close()
		return nil, f.error(err)
	}
	t.file = f
	t.items.Store(&items)
	return t, nil
}

// ReadFile returns the entries of a Table's file, sorted by name, and changes nothing. It
// may be called while the file is in use. Errors are a *FileError; it wraps fs.ErrNotExist
// if there is no file.
func ReadFile(path string) ([]Entry, error) {
	f := &file{path: path, to: path}
	items, _, err := f.load()
	if err != nil {
		return nil, f.error(err)
	}
	var out []Entry
	for _, i := range sorted(items) {
		out = append(out, i.Entry)
	}
	return out, nil
}

// file is the file of a Table.
type file struct {
	path string // as given
	to   string // without symbolic links
	lock io.Closer
	log  *slog.Logger
}

func (f *file) error(err error) error {
	var fe *FileError
	if errors.As(err, &fe) {
		return err
	}
	return &FileError{f.path, err}
}

func (f *file) close() error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Close()
}

// open locks the file and reads it.
func (f *file) open(t *Table) (map[string]*item, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(f.path))
	if err != nil {
		return nil, cause(err)
	}
	f.to = filepath.Join(dir, filepath.Base(f.path))
	if real, err := filepath.EvalSymlinks(f.to); err == nil {
		f.to = real
	}
	if f.lock, err = lock(f.to + ".lock"); err != nil {
		return nil, cause(err)
	}
	items, mode, err := f.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.log.Info("new destination table", "file", f.path)
		return map[string]*item{}, f.save(nil)
	case err != nil:
		return nil, err
	case mode&groupMay != 0:
		t.log.Warn("the group of this file may read or write stream keys: expected mode 0600", "file", f.path, "mode", fmt.Sprintf("%#o", mode))
	}
	for _, i := range items {
		i.put, i.turned = t.calls.Add(1), t.calls.Add(1)
	}
	return items, nil
}

// load reads the file, and returns its mode, which is 0 on a system without modes.
func (f *file) load() (items map[string]*item, mode fs.FileMode, err error) {
	stat, err := os.Stat(f.to)
	if err != nil {
		return nil, 0, cause(err)
	}
	if !stat.Mode().IsRegular() { // opening it could block
		return nil, 0, errors.New("not a regular file")
	}
	r, err := os.Open(f.to)
	if err != nil {
		return nil, 0, cause(err)
	}
	defer r.Close()
	if stat, err = r.Stat(); err != nil {
		return nil, 0, cause(err)
	}
	if runtime.GOOS != "windows" {
		mode = stat.Mode().Perm()
	}
	if mode&othersMay != 0 {
		return nil, 0, fmt.Errorf("%w: it has mode %#o, expected 0600", ErrExposed, mode)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, 0, cause(err)
	}
	items, err = parse(text)
	return items, mode, err
}

// cause is err without the path, which a FileError has.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Errorf("%s: %w", at.Op, at.Err)
	}
	return err
}

// save replaces the file. It returns nil or a *FileError; the file is then as before.
func (f *file) save(items map[string]*item) error {
	text := format(items)
	if len(text) > maxFile {
		return f.error(fmt.Errorf("%w: a file of %d bytes", forward.ErrLimit, maxFile))
	}
	tmp := f.to + ".tmp"
	os.Remove(tmp) // of a process that was killed
	if err := write(tmp, text); err != nil {
		os.Remove(tmp)
		return f.error(cause(err))
	}
	if err := os.Rename(tmp, f.to); err != nil {
		os.Remove(tmp)
		var link *os.LinkError
		if errors.As(err, &link) {
			err = fmt.Errorf("%s: %w", link.Op, link.Err)
		}
		return f.error(err)
	}
	if err := syncDir(filepath.Dir(f.to)); err != nil {
		// The file is the new one already, so the change is made: it may be undone only
		// by a crash of the system, not of the process.
		f.log.Warn("destination table not synced", "file", f.path, "err", cause(err))
	}
	return nil
}

// write creates a file whose content is on the disk when it returns.
func write(path string, text []byte) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// The JSON of a file.
type (
	content struct {
		Version      int     `json:"version"`
		Destinations []entry `json:"destinations"`
	}
	entry struct {
		Name        string                     `json:"name"`
		Stream      string                     `json:"stream"`
		State       State                      `json:"state"`
		Changed     time.Time                  `json:"changed"`
		By          string                     `json:"by,omitempty"`
		Untrusted   bool                       `json:"untrusted,omitempty"`
		NoLinkLocal bool                       `json:"no_link_local,omitempty"`
		Destination map[string]json.RawMessage `json:"destination"`
	}
)

// format returns the text of a file, with an entry in each line.
func format(items map[string]*item) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"version":%d,"destinations":[`, version)
	for n, i := range sorted(items) {
		if n > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(i.text)
	}
	b.WriteString("\n]}\n")
	return b.Bytes()
}

// keep sets i.text. It returns an error if a file cannot keep i as it is.
func (i *item) keep() error {
	e := entry{
		Name: i.Name, Stream: i.Stream, State: i.State, Changed: i.Changed, By: i.By,
		Untrusted: i.Destination.Untrusted, NoLinkLocal: i.Destination.NoLinkLocal,
		Destination: make(map[string]json.RawMessage),
	}
	for name, v := range option.ToJSON(i.Destination) {
		e.Destination[name], _ = json.Marshal(v) // a bool, a number or a string
	}
	same, err := e.item()
	if err != nil || !same.Destination.Equal(i.Destination) {
		return fmt.Errorf("entry %s: a file cannot keep this destination: expected UTF-8 text, whole milliseconds, and neither TLSConfig nor DialContext", i.Name)
	}
	i.text, err = json.Marshal(e)
	return err
}

// item is what e says.
func (e entry) item() (*item, error) {
	d := forward.Destination{Untrusted: e.Untrusted, NoLinkLocal: e.NoLinkLocal}
	fields := maps.Clone(e.Destination)
	if err := option.FromJSON(&d, fields); err != nil {
		return nil, fmt.Errorf("entry %.64q: an option has a wrong value", e.Name)
	}
	if len(fields) > 0 {
		return nil, fmt.Errorf("entry %.64q: an unknown option", e.Name)
	}
	if err := checkBy(e.By); err != nil {
		return nil, err
	}
	return compile(Entry{Name: e.Name, Stream: e.Stream, State: e.State, Changed: e.Changed, By: e.By, Destination: d})
}

// parse reads the text of a file. Its errors wrap ErrDamaged and show nothing of the text
// but names of entries.
func parse(text []byte) (map[string]*item, error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
	}
	if len(text) > maxFile {
		return nil, damaged("longer than %d bytes", maxFile)
	}
	var of struct{ Version int }
	if json.Unmarshal(text, &of) == nil && of.Version > version {
		return nil, damaged("its version is %d, expected %d", of.Version, version)
	}
	var c content
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return nil, damaged("no JSON of a table at byte %d of %d", max(dec.InputOffset(), offset(err)), len(text))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, damaged("more text after byte %d", dec.InputOffset())
	}
	if c.Version != version {
		return nil, damaged("its version is %d, expected %d", c.Version, version)
	}
	if len(c.Destinations) > MaxEntries {
		return nil, damaged("more than %d entries", MaxEntries)
	}
	items := make(map[string]*item, len(c.Destinations))
	for n, e := range c.Destinations {
		i, err := e.item()
		if err != nil {
			return nil, damaged("destination %d: %w", n+1, err)
		}
		if items[i.Name] != nil {
			return nil, damaged("two entries have the name %s", i.Name)
		}
		if err := i.keep(); err != nil {
			return nil, damaged("destination %d: %w", n+1, err)
		}
		items[i.Name] = i
	}
	return items, nil
}

// offset returns where in a text an error of encoding/json is.
func offset(err error) int64 {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset
	case errors.As(err, &typ):
		return typ.Offset
	}
	return 0
}
