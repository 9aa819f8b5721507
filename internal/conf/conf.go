// Package conf reads SRS's configuration format into a tree with the position of each word,
// and checks the tree against the known directives.
//
// A file is a list of directives. A directive is a name and its values, on one line, and
// ends in ";" or in a block of directives between "{" and "}". "#" at the start of a word
// begins a comment that ends with the line. A word that contains white space or one of ; { }
// # is written '…' or "…". In quotes, \\, \" and \' stand for the character after the
// backslash; any other backslash stands for itself. ${NAME} needs no quotes. Words must be
// UTF-8. Comments may be in any encoding.
package conf

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of Parse. A file that exceeds one of them is an Error.
const (
	MaxFileSize = 1 << 20 // bytes
	MaxDepth    = 16      // blocks within blocks
	MaxTokens   = 1 << 16 // words, ";", "{" and "}"
)

// File is a parsed file. It does not change after Parse has returned it, and may be read
// concurrently.
type File struct {
	Root []*Directive

	name string
	src  string
	// offsets contains, for each directive in turn, the offsets of its values and of its
	// ";" or "{".
	offsets []int32
	// from contains the origins of the values of a single directive, if they come from
	// elsewhere. See Directive.Origin.
	from []string
}

// Directive is a name, its values and its block, if it ends in one.
type Directive struct {
	Name string
	// Args are the values, unquoted.
	Args []string
	// Block is nil if the directive ends in ";", and empty but not nil for "{}".
	Block []*Directive
	// Pos is where Name starts.
	Pos Position

	file  *File // without src if the directive is in no file
	first int   // index in file.offsets of the first value
}

// ArgPos returns the position of Args[i], or of the ";" or "{" if i is len(Args). If the
// directive is in no file, it returns Pos. Its cost grows with the size of the file: use it
// for errors.
func (d *Directive) ArgPos(i int) Position {
	if d.file.offsets == nil {
		return d.Pos
	}
	return d.file.position(int(d.file.offsets[d.first+i]))
}

// Position is a place in a file. Line and Column count from 1, Column in
// characters (runes).
type Position struct {
	File         string
	Line, Column int
}

// Origin returns where Args[i] comes from, such as `what "${KEY}" stands for`, if it is not
// in the file itself, or else "". A value with an origin must not be shown.
func (d *Directive) Origin(i int) string {
	if i < len(d.file.from) {
		return d.file.from[i]
	}
	return ""
}

// String returns "file:line:column", or File alone if Line is 0.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is a fault of a file: the text found at a position, and what was expected instead.
// It shows at most the harmless beginning of a value that may contain a secret.
type Error struct {
	Pos             Position
	Found, Expected string
}

// Error returns a text such as `srs.conf:12:5: found "}", expected ";" or "{"`.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: found %s, expected %s", e.Pos, e.Found, e.Expected)
}

// Parse parses src, the content of the named file. It does not keep src. It uses at most 64
// times the size of src in memory. The error is always an *Error, about the first fault.
func Parse(file string, src []byte) (*File, error) {
	f := &File{name: file}
	if len(src) > MaxFileSize {
		return nil, f.fault(0, fmt.Sprintf("a file of %d bytes", len(src)), fmt.Sprintf("at most %d", MaxFileSize))
	}
	f.src = string(bytes.TrimPrefix(src, []byte("\ufeff")))
	p := newParser(f)
	root, err := p.block(0)
	if err != nil {
		return nil, err
	}
	f.Root = root
	return f, nil
}

func (f *File) fault(offset int, found, expected string) *Error {
	return &Error{Pos: f.position(offset), Found: found, Expected: expected}
}

func (f *File) position(offset int) Position {
	before := f.src[:offset]
	line := strings.LastIndexByte(before, '\n') + 1
	return Position{
		File:   f.name,
		Line:   1 + strings.Count(before, "\n"),
		Column: 1 + utf8.RuneCountInString(before[line:]),
	}
}

// parser builds the tree in arrays of the exact size, which newParser has allocated. So the
// memory stays within the limit that Parse documents, for any input.
type parser struct {
	f      *File
	lex    lexer
	tokens int

	directives []Directive
	args       []string

	// blocks contains every directive of the tree once: blocks[:open] those of open
	// blocks, blocks[closed:] those of finished blocks.
	blocks       []*Directive
	open, closed int

	// at and offset are the position of the directive that was begun last.
	at     Position
	offset int
}

func newParser(f *File) *parser {
	directives, args := measure(f.src)
	f.offsets = make([]int32, 0, directives+args)
	return &parser{
		f:          f,
		lex:        lexer{src: f.src},
		directives: make([]Directive, 0, directives),
		args:       make([]string, 0, args),
		blocks:     make([]*Directive, directives),
		closed:     directives,
		at:         Position{File: f.name, Line: 1, Column: 1},
	}
}

// measure counts the directives and their values in src. It stops at the first malformed
// word and at MaxTokens, as the parser does.
func measure(src string) (directives, args int) {
	lex := lexer{src: src}
	begin := true
	for tokens := 0; tokens <= MaxTokens; tokens++ {
		t, fault := lex.next()
		for fault == nil && t.kind == lineEnd {
			t, fault = lex.next()
		}
		switch {
		case fault != nil || t.kind == fileEnd:
			return directives, args
		case t.kind != word:
			begin = true
		case begin:
			directives++
			begin = false
		default:
			args++
		}
	}
	return directives, args
}

// block reads directives up to the "}" of a block at depth, or to the end of the file if
// depth is 0.
func (p *parser) block(depth int) ([]*Directive, error) {
	mark := p.open
	expected := `a directive or "}"`
	if depth == 0 {
		expected = "a directive or end of file"
	}
	for {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		switch {
		case t.kind == lineEnd:
		case t.kind == word:
			d, err := p.directive(t, depth)
			if err != nil {
				return nil, err
			}
			p.blocks[p.open] = d
			p.open++
		case t.kind == fileEnd && depth == 0, t.kind == '}' && depth > 0:
			return p.close(mark), nil
		default:
			return nil, p.f.fault(t.offset, t.kind.String(), expected)
		}
	}
}

// close moves the open directives from mark on to the finished ones.
func (p *parser) close(mark int) []*Directive {
	end := p.closed
	p.closed -= p.open - mark
	copy(p.blocks[p.closed:end], p.blocks[mark:p.open])
	p.open = mark
	return p.blocks[p.closed:end:end]
}

// directive reads the rest of the directive that name begins.
func (p *parser) directive(name token, depth int) (*Directive, error) {
	p.directives = append(p.directives, Directive{
		Name: name.text, Pos: p.advance(name.offset), file: p.f, first: len(p.f.offsets),
	})
	d := &p.directives[len(p.directives)-1]
	firstArg := len(p.args)
	for {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		switch t.kind {
		case word:
			p.args = append(p.args, t.text)
		case ';', '{':
			if n := len(p.args); n > firstArg {
				d.Args = p.args[firstArg:n:n]
			}
		default:
			return nil, p.f.fault(t.offset, t.kind.String(), `";" or "{"`)
		}
		p.f.offsets = append(p.f.offsets, int32(t.offset))
		switch t.kind {
		case ';':
			return d, nil
		case '{':
			if depth == MaxDepth {
				return nil, p.f.fault(t.offset, fmt.Sprintf("a block within %d others", MaxDepth), `";"`)
			}
			d.Block, err = p.block(depth + 1)
			return d, err
		}
	}
}

func (p *parser) next() (token, error) {
	t, fault := p.lex.next()
	if fault != nil {
		return t, p.f.fault(t.offset, fault.found, fault.expected)
	}
	if t.kind == word { // comments may be in any encoding
		if i := invalidUTF8(p.f.src[t.offset:p.lex.offset]); i >= 0 {
			i += t.offset
			return t, p.f.fault(i, fmt.Sprintf("byte 0x%02x", p.f.src[i]), "UTF-8 text")
		}
	}
	if t.kind != lineEnd && t.kind != fileEnd {
		if p.tokens++; p.tokens > MaxTokens {
			return t, p.f.fault(t.offset, t.kind.String(), fmt.Sprintf("end of file: at most %d words and signs", MaxTokens))
		}
	}
	return t, nil
}

// invalidUTF8 returns the offset of the first byte of s that is not part of a character, or
// a negative number if there is none.
func invalidUTF8(s string) int {
	for i, r := range s {
		if r != utf8.RuneError {
			continue
		}
		if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
			return i
		}
	}
	return -1
}

// advance is File.position for offsets that only increase. It reads each character once: a
// file may be one long line.
func (p *parser) advance(offset int) Position {
	passed := p.f.src[p.offset:offset]
	if i := strings.LastIndexByte(passed, '\n'); i >= 0 {
		p.at.Line += strings.Count(passed, "\n")
		p.at.Column = 1
		passed = passed[i+1:]
	}
	p.at.Column += utf8.RuneCountInString(passed)
	p.offset = offset
	return p.at
}

// kind is the kind of a token: one of those below, or the sign itself.
type kind byte

const (
	word    kind = 'w'
	lineEnd kind = '\n'
	fileEnd kind = 0
)

func (k kind) String() string {
	switch k {
	case word:
		return "a word"
	case lineEnd:
		return "end of line"
	case fileEnd:
		return "end of file"
	}
	return fmt.Sprintf("%q", string(rune(k)))
}

type token struct {
	kind   kind
	text   string // of a word, unquoted
	offset int
}

// lexFault is a fault at the token that is returned with it.
type lexFault struct{ found, expected string }

// lexer splits src into tokens.
type lexer struct {
	src    string
	offset int
}

func (l *lexer) next() (token, *lexFault) {
	l.skip()
	t := token{offset: l.offset}
	if l.offset == len(l.src) {
		return t, nil
	}
	switch c := l.src[l.offset]; c {
	case '\n', ';', '{', '}':
		l.offset++
		t.kind = kind(c)
		return t, nil
	case '"', '\'':
		return l.quoted(c)
	}
	t.kind = word
	t.text = l.src[t.offset:]
	for end := 0; ; {
		n := strings.IndexAny(t.text[end:], delimiters)
		if n < 0 {
			break
		}
		end += n
		if more := variableEnd(t.text[:end], t.text[end:]); more > 0 {
			end += more
			continue
		}
		t.text = t.text[:end]
		break
	}
	l.offset += len(t.text)
	return t, nil
}

// variableEnd returns how many bytes of s, which follows a part of a word, belong to the
// word: the rest of ${NAME}, or of what is meant as one, such as ${NAME:-text}.
func variableEnd(word, s string) int {
	if s[0] != '{' || !strings.HasSuffix(word, "$") {
		return 0
	}
	if n := strings.IndexAny(s[1:], delimiters); n >= 0 && s[1+n] == '}' {
		return n + 2
	}
	return 0
}

// delimiters end a word.
const delimiters = " \t\r\n;{}"

// skip skips white space, except the end of a line, and a comment.
func (l *lexer) skip() {
	for l.offset < len(l.src) {
		switch l.src[l.offset] {
		case ' ', '\t', '\r':
			l.offset++
		case '#':
			n := strings.IndexByte(l.src[l.offset:], '\n')
			if n < 0 {
				n = len(l.src) - l.offset
			}
			l.offset += n
		default:
			return
		}
	}
}

// quoted reads a word between two quote characters.
func (l *lexer) quoted(quote byte) (token, *lexFault) {
	start := l.offset
	escaped := false
	for i := start + 1; i < len(l.src) && l.src[i] != '\n'; i++ {
		switch {
		case isEscape(l.src[i:]):
			escaped = true
			i++
		case l.src[i] == quote:
			if rest := l.src[i+1:]; rest != "" && strings.IndexByte(delimiters, rest[0]) < 0 {
				return token{offset: i + 1}, &lexFault{"text right after a quoted word", `white space, ";" or "{"`}
			}
			l.offset = i + 1
			text := l.src[start+1 : i]
			if escaped {
				text = unescape(text)
			}
			return token{kind: word, text: text, offset: start}, nil
		}
	}
	return token{offset: start}, &lexFault{fmt.Sprintf("a %c that nothing closes", quote), "the same quote before the end of the line"}
}

// isEscape reports whether s starts with a backslash and a character that it can escape.
func isEscape(s string) bool {
	return len(s) > 1 && s[0] == '\\' && strings.IndexByte(`\"'`, s[1]) >= 0
}

func unescape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if isEscape(s[i:]) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
