package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

const (
	// MaxIncludes is how deep includes may be nested.
	MaxIncludes = 8
	// maxSecretSize is the maximum size, in bytes, of the file of a value.
	maxSecretSize = 64 << 10
	// othersMay is the bits of a mode that permit users to read or write who are
	// neither the owner nor in the group.
	othersMay = 0o006
)

// Note is a fact about a usable file that the operator should know.
type Note struct {
	Pos  Position
	Text string
}

// Environment is the environment of the process to which a file may refer.
type Environment struct {
	// LookupEnv works like os.LookupEnv.
	LookupEnv func(name string) (value string, ok bool)
}

// Load parses src, the content of the named file, and replaces its references. It does so
// only in the blocks that Check examines:
//
//   - include PATH…; stands for the directives of other files, at the top level and in
//     every block. A relative path begins in the directory of the file that contains
//     it. Only regular files are read. A file must not include itself, includes may be
//     nested MaxIncludes deep, and all files together may have MaxFileSize bytes.
//   - ${NAME} in a value stands for a variable of the environment, which must be set.
//     $${ stands for ${ itself. The variable's text is one value or a part of it,
//     whatever characters it contains.
//   - NAME_file PATH; stands for the directive NAME, if its value may be a secret. The
//     value is the text of the file without its final newline. user_file NAME PATH;
//     reads the password from a file. Paths are relative as with include. There is a
//     note about a file that every user of the machine may read or write.
//
// A variable of the environment that SRS has for a directive, such as SRS_LISTEN or
// SRS_VHOST_PLAY_GOP_CACHE, replaces the directive. If it is a directive of vhosts, it is
// replaced in every vhost; if the file has no vhost, __defaultVhost__ is added. An empty
// variable counts as not set.
//
// The spellings of SRS 1 and 2 are replaced by the current ones, each with a note. Errors
// are *Error, and name the position in the file.
func Load(name string, src []byte, env Environment) (*File, []Note, error) {
	f, err := Parse(name, src)
	if err != nil {
		return nil, nil, err
	}
	l := loader{env: env, size: len(src)}
	if stat, err := os.Stat(name); err == nil {
		l.open = append(l.open, stat)
	}
	root, err := l.block(topLevel, f.Root, filepath.Dir(name))
	if err == nil {
		root, err = l.fromEnvironment(root)
	}
	if err != nil {
		return nil, nil, err
	}
	return &File{Root: root, name: f.name, src: f.src}, l.notes, nil
}

// ReadFile reads a configuration file, which may be a pipe. It stops one byte after
// MaxFileSize, so that Parse refuses a larger file.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFileSize+1))
}

type loader struct {
	env   Environment
	open  []os.FileInfo // files that are being read, the outermost first
	size  int           // of all files so far
	notes []Note
}

// block resolves the directives of a block. Relative paths begin in dir.
func (l *loader) block(in *context, block []*Directive, dir string) ([]*Directive, error) {
	out := make([]*Directive, 0, len(block))
	for _, d := range block {
		var more []*Directive
		var err error
		if d.Name == "include" {
			more, err = l.include(in, d, dir)
		} else {
			more, err = l.directive(in, d, dir)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if in == vhost {
		out = merge(out)
	}
	return out, nil
}

// directive resolves a directive other than include. Directives that Check ignores or
// refuses stay unchanged.
func (l *loader) directive(in *context, d *Directive, dir string) ([]*Directive, error) {
	if in == vhost {
		d = l.today(d)
	}
	r, ok := in.done[d.Name]
	of, isFile := strings.CutSuffix(d.Name, "_file")
	if !ok && isFile {
		r, ok = in.done[of]
		ok = ok && r.last().isSecret()
	}
	if !ok {
		return []*Directive{d}, nil
	}
	c := *d
	if err := l.expand(&c); err != nil {
		return nil, err
	}
	if _, known := in.done[d.Name]; !known {
		if err := l.read(&c, of, r, dir); err != nil {
			return nil, err
		}
	}
	inside := r.block
	if inside == nil {
		inside = r.options
	}
	if c.Block != nil && inside != nil {
		b, err := l.block(inside, c.Block, dir)
		if err != nil {
			return nil, err
		}
		c.Block = b
	}
	return []*Directive{&c}, nil
}

// last returns the value that NAME_file reads: the last one of the directive NAME.
func (r rule) last() *value {
	if r.pair != nil {
		return r.pair
	}
	return r.value
}

func (v *value) isSecret() bool { return v != nil && v.secret }

// old lists the directives of vhosts that have moved into blocks.
var old = map[string][2]string{
	"gop_cache":              {"play", "gop_cache"},
	"queue_length":           {"play", "queue_length"},
	"mw_latency":             {"play", "mw_latency"},
	"publish_1stpkt_timeout": {"publish", "firstpkt_timeout"},
	"publish_normal_timeout": {"publish", "normal_timeout"},
}

// today returns a directive of a vhost in its current spelling.
func (l *loader) today(d *Directive) *Directive {
	c := *d
	if to, ok := old[d.Name]; ok && d.Block == nil {
		c.Name = to[1]
		l.note(d.Pos, fmt.Sprintf("%s is of SRS 2: it is now in %s { %s …; }", d.Name, to[0], to[1]))
		return d.made(to[0], nil, &c)
	}
	if d.Name == "forward" && d.Block == nil && len(d.Args) > 0 {
		c.Name = "destination"
		l.note(d.Pos, "forward with destinations is of SRS 2: it is now forward { enabled on; destination …; }")
		return d.made("forward", nil, d.made("enabled", []string{"on"}), &c)
	}
	return d
}

// made returns a new directive, which is in no file, with the position of d.
func (d *Directive) made(name string, args []string, block ...*Directive) *Directive {
	if len(block) == 0 {
		block = nil
	}
	return &Directive{Name: name, Args: args, Block: block, Pos: d.Pos, file: &File{}}
}

// merge moves the directives of blocks that today has made into the file's own block of the
// same name, if there is one.
func merge(block []*Directive) []*Directive {
	at := make(map[string]*Directive)
	for _, d := range block {
		if d.Name != "forward" && d.file.offsets != nil && d.Block != nil {
			at[d.Name] = d
		}
	}
	return slices.DeleteFunc(block, func(d *Directive) bool {
		if d.file.offsets != nil || d.Block == nil || d.Name == "forward" {
			return false
		}
		to := at[d.Name]
		if to == nil {
			at[d.Name] = d
			return false
		}
		to.Block = append(to.Block, d.Block...)
		return true
	})
}

func (l *loader) note(pos Position, text string) { l.notes = append(l.notes, Note{pos, text}) }

// include reads the files of an include.
func (l *loader) include(in *context, d *Directive, dir string) ([]*Directive, error) {
	if d.Block != nil || len(d.Args) == 0 {
		found, expected := `"{"`, `";"`
		if d.Block == nil {
			found, expected = `";"`, "a path"
		}
		return nil, &Error{Pos: d.ArgPos(len(d.Args)), Found: found, Expected: expected}
	}
	c := *d
	if err := l.expand(&c); err != nil {
		return nil, err
	}
	var out []*Directive
	for i := range c.Args {
		more, err := l.includeFile(in, &c, i, dir)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func (l *loader) includeFile(in *context, d *Directive, i int, dir string) ([]*Directive, error) {
	if len(l.open) > MaxIncludes {
		return nil, &Error{Pos: d.ArgPos(i), Found: "include", Expected: fmt.Sprintf("at most %d files within one another", MaxIncludes)}
	}
	path := from(dir, d.Args[i])
	src, stat, err := readRegular(path, MaxFileSize-l.size)
	if err != nil {
		return nil, &Error{Pos: d.ArgPos(i), Found: found(d, i), Expected: err.Error()}
	}
	for _, o := range l.open {
		if os.SameFile(o, stat) {
			return nil, &Error{Pos: d.ArgPos(i), Found: found(d, i), Expected: "a file that it is not within"}
		}
	}
	l.size += len(src)
	name := path
	if d.Origin(i) != "" {
		name = fmt.Sprintf("the file at %s", d.ArgPos(i))
	}
	f, err := Parse(name, src)
	if err != nil {
		return nil, err
	}
	l.open = append(l.open, stat)
	defer func() { l.open = l.open[:len(l.open)-1] }()
	return l.block(in, f.Root, filepath.Dir(path))
}

// from returns path, which begins in dir unless it is absolute.
func from(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// readRegular reads a regular file. Its error names what was expected, and not the path.
func readRegular(path string, most int) ([]byte, os.FileInfo, error) {
	stat, err := os.Stat(path) // opening a pipe would wait for its other end
	var f *os.File
	switch {
	case err != nil:
	case !stat.Mode().IsRegular():
		return nil, nil, errors.New("a regular file")
	default:
		if f, err = os.Open(path); err == nil {
			defer f.Close()
			stat, err = f.Stat()
		}
	}
	if err == nil && !stat.Mode().IsRegular() {
		return nil, nil, errors.New("a regular file")
	}
	var src []byte
	if err == nil {
		src, err = io.ReadAll(io.LimitReader(f, int64(max(most, 0))+1))
	}
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("a file that can be read (%w)", err)
	case len(src) > most:
		return nil, nil, fmt.Errorf("at most %d bytes", max(most, 0))
	}
	return src, stat, nil
}

// found returns the path d.Args[i] as errors show it.
func found(d *Directive, i int) string {
	if o := d.Origin(i); o != "" {
		return o
	}
	return fmt.Sprintf("%.200q", d.Args[i])
}

// read turns d, the directive NAME_file, into the directive NAME.
func (l *loader) read(d *Directive, name string, r rule, dir string) error {
	values := 1
	if r.pair != nil {
		values = 2
	}
	if len(d.Args) != values {
		at := min(len(d.Args), values)
		e := &Error{Pos: d.ArgPos(at), Found: `";"`, Expected: "a path"}
		switch {
		case len(d.Args) > values:
			e.Found, e.Expected = "a value more", `";"`
		case at < values-1:
			e.Expected = r.value.expected
		}
		return e
	}
	i := values - 1
	text, stat, err := readRegular(from(dir, d.Args[i]), maxSecretSize)
	if err != nil {
		return &Error{Pos: d.ArgPos(i), Found: found(d, i), Expected: err.Error()}
	}
	if mode := stat.Mode().Perm(); mode&othersMay != 0 && runtime.GOOS != "windows" { // Windows has no modes
		l.note(d.ArgPos(i), fmt.Sprintf("the mode %#o of this file lets every user of the machine read or write the %s", mode, name))
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	origin := "the text of " + found(d, i)
	d.Args = slices.Clone(d.Args)
	d.Args[i] = string(text)
	d.Name = name
	d.setOrigin(i, origin)
	return nil
}

func (d *Directive) setOrigin(i int, from string) {
	f := *d.file
	f.from = make([]string, len(d.Args))
	copy(f.from, d.file.from)
	f.from[i] = from
	d.file = &f
}

// expand replaces the variables in the values of d, which must be a copy.
func (l *loader) expand(d *Directive) error {
	var args []string
	for i, arg := range d.Args {
		if looksLikeVariable.MatchString(arg) {
			l.note(d.ArgPos(i), "a variable of the environment is written ${NAME}: without the braces this stands for itself")
		}
		if !strings.Contains(arg, "${") {
			continue
		}
		text, used, e := l.variables(arg)
		if e != nil {
			e.Pos = d.ArgPos(i)
			return e
		}
		if args == nil {
			args = slices.Clone(d.Args)
		}
		args[i] = text
		if used != "" {
			d.setOrigin(i, "what "+used+" stands for")
		}
	}
	if args != nil {
		d.Args = args
	}
	return nil
}

// variables replaces the variables in s. used names them. It is empty if there is none.
func (l *loader) variables(s string) (text, used string, e *Error) {
	var b strings.Builder
	for {
		at := strings.Index(s, "${")
		if at < 0 {
			b.WriteString(s)
			return b.String(), used, nil
		}
		if at > 0 && s[at-1] == '$' {
			b.WriteString(s[:at] + "{")
			s = s[at+2:]
			continue
		}
		name, rest, ok := strings.Cut(s[at+2:], "}")
		if !ok || !isVariable(name) {
			return "", "", &Error{Found: `"${"`, Expected: "${NAME}, or $${ for ${ itself"}
		}
		value, ok := l.env.LookupEnv(name)
		if !ok {
			return "", "", &Error{Found: "${" + name + "}, which is not set", Expected: "a variable of the environment"}
		}
		if used != "" {
			used += " and "
		}
		used += "${" + name + "}"
		b.WriteString(s[:at] + value)
		s = rest
		if b.Len() > MaxFileSize {
			return "", "", &Error{Found: used, Expected: fmt.Sprintf("at most %d bytes", MaxFileSize)}
		}
	}
}

// looksLikeVariable matches what other programs take for a variable: a $ before a name in
// capitals, or before a name that is the whole value.
var looksLikeVariable = regexp.MustCompile(`\$[A-Z_][A-Z0-9_]*|^\$[A-Za-z_]\w*$`)

func isVariable(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || '9' < c) {
			return false
		}
	}
	return s != ""
}

// variable is a variable of the environment that SRS has for a directive.
type variable struct {
	name      string
	vhost     bool   // the directive is one of vhosts
	block     string // the block of the directive, or empty
	directive string
}

var variables = slices.Concat(
	[]variable{
		{name: "SRS_VHOST_CHUNK_SIZE", directive: "chunk_size"}, // also sets the general one
		{name: "SRS_RTMP_CHUNK_SIZE", directive: "chunk_size"},
		{name: "SRS_LISTEN", directive: "listen"},
		{name: "SRS_RTMP_LISTEN", directive: "listen"}, // the newer one wins
		{name: "SRS_MAX_CONNECTIONS", directive: "max_connections"},
		{name: "SRS_PID", directive: "pid"},
		{name: "SRS_VHOST_CHUNK_SIZE", vhost: true, directive: "chunk_size"},
		{name: "SRS_VHOST_TCP_NODELAY", vhost: true, directive: "tcp_nodelay"},
	},
	variablesOf(false, "rtmps", "enabled listen key cert"),
	variablesOf(true, "forward", "enabled destination backend"),
	variablesOf(true, "play", "gop_cache queue_length mw_latency"),
	variablesOf(true, "publish", "firstpkt_timeout normal_timeout"),
	variablesOf(true, "http_hooks", "enabled on_connect on_close on_publish on_unpublish on_play on_stop"),
)

func variablesOf(vhost bool, block, names string) (out []variable) {
	prefix := "SRS_"
	if vhost {
		prefix += "VHOST_"
	}
	for name := range strings.FieldsSeq(names) {
		out = append(out, variable{strings.ToUpper(prefix + block + "_" + name), vhost, block, name})
	}
	return out
}

// fromEnvironment replaces directives by the values of SRS's variables.
func (l *loader) fromEnvironment(root []*Directive) ([]*Directive, error) {
	for _, v := range variables {
		text, ok := l.env.LookupEnv(v.name)
		if !ok || text == "" { // as in SRS
			continue
		}
		if !v.vhost {
			root = v.put(topLevel, root, text)
			continue
		}
		if !slices.ContainsFunc(root, func(d *Directive) bool { return d.Name == "vhost" }) {
			root = append(root, v.made("vhost", []string{"__defaultVhost__"}, []*Directive{}))
		}
		for _, d := range root {
			if d.Name == "vhost" && d.Block != nil {
				d.Block = v.put(vhost, d.Block, text)
			}
		}
	}
	return root, nil
}

// put replaces the directive of v in a block of the kind in, or adds it.
func (v variable) put(in *context, block []*Directive, text string) []*Directive {
	if v.block != "" {
		inner := in.done[v.block].block
		for _, d := range block {
			if d.Name == v.block && d.Block != nil {
				d.Block = variable{name: v.name, directive: v.directive}.put(inner, d.Block, text)
				return block
			}
		}
		made := v.made(v.block, nil, variable{name: v.name, directive: v.directive}.put(inner, nil, text))
		return append(block, made)
	}
	args := []string{text}
	if in.done[v.directive].many {
		args = strings.Fields(text)
	}
	d := v.made(v.directive, args, nil)
	for i := range args {
		d.setOrigin(i, "the value of "+v.name)
	}
	block = slices.DeleteFunc(block, func(d *Directive) bool { return d.Name == v.directive })
	if in == topLevel && v.directive == "listen" || in == topLevel && v.directive == "chunk_size" {
		for _, r := range block { // newer versions have it in the block rtmp
			if r.Name == "rtmp" && r.Block != nil {
				r.Block = slices.DeleteFunc(r.Block, func(d *Directive) bool { return d.Name == v.directive })
			}
		}
	}
	return append(block, d)
}

// made returns a new directive, which is in no file.
func (v variable) made(name string, args []string, block []*Directive) *Directive {
	return &Directive{Name: name, Args: args, Block: block, Pos: Position{File: "environment"}, file: &File{}}
}
