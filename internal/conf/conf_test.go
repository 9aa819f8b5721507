package conf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseTree(t *testing.T) {
	src := "\ufefflisten 1935 [::]:1935;# two\r\n" +
		"\tpid\t\"./a b.pid\" ; \n" +
		"vhost '__défaut__' { forward{enabled on;} play {} } hls;\n" +
		`say "a\"b\\c\d" 'it\'s' "" a#b "{;}#";`
	f, err := Parse("srs.conf", []byte(src))
	require.NoError(t, err)
	require.Equal(t, []string{
		`1:1 listen 1935@1:8 [::]:1935@1:13 ;@1:22`,
		`2:2 pid ./a b.pid@2:6 ;@2:18`,
		`3:1 vhost __défaut__@3:7 {@3:20`,
		`  3:22 forward {@3:29`,
		`    3:30 enabled on@3:38 ;@3:40`,
		`  3:43 play {@3:48`,
		`3:53 hls ;@3:56`,
		`4:1 say a"b\c\d@4:5 it's@4:17 @4:25 a#b@4:28 {;}#@4:32 ;@4:38`,
	}, outline(f.Root, ""))
	require.Nil(t, f.Root[0].Block)
	require.NotNil(t, f.Root[2].Block[1].Block)
	require.Nil(t, f.Root[3].Args)
	require.Equal(t, "srs.conf:3:22", f.Root[2].Block[0].Pos.String())
}

func TestParseNothing(t *testing.T) {
	for _, src := range []string{"", "\ufeff", " \r\n\t", "# only a comment", "#\n#\n"} {
		f, err := Parse("srs.conf", []byte(src))
		require.NoError(t, err, "%q", src)
		require.Empty(t, f.Root, "%q", src)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, src, want string }{
		{"value without end", "listen 1935", `1:12: found end of file, expected ";" or "{"`},
		{"line without end", "listen 1935\npid a;", `1:12: found end of line, expected ";" or "{"`},
		{"line without end, then a comment", "listen 1935 # pid;\n", `1:19: found end of line, expected ";" or "{"`},
		{"name without end, CRLF", "listen\r\n", `1:8: found end of line, expected ";" or "{"`},
		{"brace for semicolon", "play {\n  gop_cache on\t}", `2:16: found "}", expected ";" or "{"`},
		{"brace on the next line", "vhost a\n{\n}", `1:8: found end of line, expected ";" or "{"`},
		{"semicolon alone", "listen 1;;", `1:10: found ";", expected a directive or end of file`},
		{"brace alone", "{}", `1:1: found "{", expected a directive or end of file`},
		{"block not opened", "a;\n}", `2:1: found "}", expected a directive or end of file`},
		{"block not closed", "a {\n  b;\n", `3:1: found end of file, expected a directive or "}"`},
		{"semicolon in a block", "a {;}", `1:4: found ";", expected a directive or "}"`},
		{"block after a block", "a {} {}", `1:6: found "{", expected a directive or end of file`},
		{"quote not closed", "a \"b;\nc\";", `1:3: found a " that nothing closes, expected the same quote before the end of the line`},
		{"quote closed by the other", `a 'b";`, `1:3: found a ' that nothing closes, expected the same quote before the end of the line`},
		{"quote escaped", `a "b\";`, `1:3: found a " that nothing closes, expected the same quote before the end of the line`},
		{"text after a quote", `a "b"c;`, `1:6: found text right after a quoted word, expected white space, ";" or "{"`},
		{"columns are characters", "名 “é” }", `1:7: found "}", expected ";" or "{"`},
		{"not UTF-8", "a;\nb\xff;", `2:2: found byte 0xff, expected UTF-8 text`},
		{"UTF-16", "\xff\xfea\x00", `1:1: found byte 0xff, expected UTF-8 text`},
		{"first fault first", "}\n\"", `1:1: found "}", expected a directive or end of file`},
		{"too deep", strings.Repeat("a{", MaxDepth+1), `1:34: found a block within 16 others, expected ";"`},
		{"too many tokens", strings.Repeat("a;", MaxTokens/2) + "\nb;", `2:1: found a word, expected end of file: at most 65536 words and signs`},
		{"too large", strings.Repeat("#", MaxFileSize+1), `1:1: found a file of 1048577 bytes, expected at most 1048576`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse("srs.conf", []byte(tt.src))
			require.EqualError(t, err, "srs.conf:"+tt.want)
			require.Nil(t, f)
			require.IsType(t, &Error{}, err)
		})
	}
}

func TestParseAtItsLimits(t *testing.T) {
	for name, src := range map[string]string{
		"size":   strings.Repeat("#", MaxFileSize),
		"depth":  strings.Repeat("a{", MaxDepth) + strings.Repeat("}", MaxDepth),
		"tokens": strings.Repeat("a;", MaxTokens/2),
		"bom":    "\ufeff\ufeff;",
	} {
		t.Run(name, func(t *testing.T) {
			checkParse(t, []byte(src))
			_, err := Parse("srs.conf", []byte(src))
			require.NoError(t, err)
		})
	}
}

func TestParseMemoryIsBounded(t *testing.T) {
	for _, unit := range []string{
		"a;", "a{}", "a a;", "a{a;}", ";", "{", "}", "a\n", "\"\" ", "\"\\\\\" ", "\"\\\\\";", "a b c d;\n", "\xff",
	} {
		for _, n := range []int{1, 1000, MaxTokens} {
			t.Run(fmt.Sprintf("%q times %d", unit, n), func(t *testing.T) {
				checkParse(t, []byte(strings.Repeat(unit, n)))
				checkParse(t, []byte("a "+strings.Repeat(unit, n)))
			})
		}
	}
}

func TestEveryPrefix(t *testing.T) {
	for _, src := range samples(t) {
		for n := range len(src) {
			f, err := Parse("srs.conf", src[:n])
			if err != nil {
				require.IsType(t, &Error{}, err)
				continue
			}
			if _, err := Check(f); err != nil {
				require.IsType(t, &Error{}, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, src := range samples(f) {
		f.Add(src)
	}
	f.Add([]byte("a \"b\\\"\\\\c\" '' { '}' { } b; } # c"))
	f.Fuzz(checkParse)
}

// checkParse parses src and checks the memory limit that Parse documents. If src is
// accepted, it also writes the tree and parses that: the trees must be equal.
func checkParse(t *testing.T, src []byte) {
	var f *File
	var err error
	spent := allocated(func() { f, err = Parse("srs.conf", src) })
	require.LessOrEqual(t, spent, uint64(64*len(src)+64<<10))
	if err != nil {
		require.IsType(t, &Error{}, err)
		return
	}
	written := format(f.Root)
	if len(written) > MaxFileSize { // indented and quoted, it may be too large
		return
	}
	again, err := Parse("srs.conf", []byte(written))
	require.NoError(t, err)
	require.True(t, equal(f.Root, again.Root), "written as:\n%s", written)

	ignored, err := Check(f)
	_, errAgain := Check(again)
	require.Equal(t, err == nil, errAgain == nil)
	for _, i := range ignored {
		require.NotZero(t, i.Pos.Line)
	}
}

// allocated returns how many bytes fn allocates. It is the smallest of a few runs, because
// other goroutines allocate as well.
func allocated(fn func()) uint64 {
	least := ^uint64(0)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fn()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// format writes directives, one after the other, as a file of the format.
func format(block []*Directive) string {
	var b strings.Builder
	for _, d := range block {
		b.WriteString(quote(d.Name))
		for _, arg := range d.Args {
			b.WriteString(" " + quote(arg))
		}
		if d.Block == nil {
			b.WriteString(";\n")
			continue
		}
		b.WriteString("{\n" + format(d.Block) + "}\n")
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func equal(a, b []*Directive) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name ||
			fmt.Sprintf("%q", a[i].Args) != fmt.Sprintf("%q", b[i].Args) ||
			!equal(a[i].Block, b[i].Block) {
			return false
		}
	}
	return true
}

// outline returns a line for each directive: its name, its values and its end, each with
// its position.
func outline(block []*Directive, indent string) []string {
	place := func(p Position) string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }
	var lines []string
	for _, d := range block {
		line := indent + place(d.Pos) + " " + d.Name
		for i, arg := range d.Args {
			line += " " + arg + "@" + place(d.ArgPos(i))
		}
		end := ";"
		if d.Block != nil {
			end = "{"
		}
		lines = append(lines, line+" "+end+"@"+place(d.ArgPos(len(d.Args))))
		lines = append(lines, outline(d.Block, indent+"  ")...)
	}
	return lines
}

// samples returns the files in testdata/conf.
func samples(t testing.TB) [][]byte {
	paths, err := filepath.Glob("../../testdata/conf/*.conf")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var samples [][]byte
	for _, path := range paths {
		src, err := os.ReadFile(path)
		require.NoError(t, err)
		samples = append(samples, src)
	}
	return samples
}
