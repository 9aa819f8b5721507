package control

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// comment is that of Handler.
func comment(t *testing.T) string {
	file, err := parser.ParseFile(gotoken.NewFileSet(), "control.go", nil, parser.ParseComments)
	require.NoError(t, err)
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "Handler" {
			return f.Doc.Text()
		}
	}
	t.Fatal("no Handler")
	return ""
}

// The document and the comment have each code, with its status.
func TestDocumentsNameEveryCode(t *testing.T) {
	document, err := os.ReadFile("../docs/control.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(document), "\n| status | `code` |\n|---|---|\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	table = strings.NewReplacer("|", "", "`", "").Replace(table)
	_, list, ok := strings.Cut(comment(t), "Every failure answers")
	require.True(t, ok)
	for of, text := range map[string]string{"docs/control.md": table, "Handler": list} {
		named := make(map[string]int)
		for _, row := range regexp.MustCompile(`(?m)^\s*(\d{3}) +(\w+(?:, \w+)*)\s*$`).FindAllStringSubmatch(text, -1) {
			for code := range strings.SplitSeq(row[2], ", ") {
				require.NotContains(t, named, code, of)
				named[code], err = strconv.Atoi(row[1])
				require.NoError(t, err)
			}
		}
		require.Equal(t, statuses, named, of)
	}
}

// The code has no other codes, and uses each.
func TestEveryCodeIsUsed(t *testing.T) {
	used := make(map[string]int)
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?:&failure\{|failed\(err, |\bcode = )"(\w+)"`).FindAllStringSubmatch(string(source), -1) {
			used[m[1]] = statuses[m[1]]
		}
	}
	require.Equal(t, statuses, used)
}

// The document and the comment have each request that the handler takes.
func TestDocumentsNameEveryRequest(t *testing.T) {
	document, err := os.ReadFile("../docs/control.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(document), "\n| request | |\n|---|---|\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	var want, inDocument, inComment []string
	for path, methods := range new(handler).paths() {
		for method := range methods {
			want = append(want, method+" "+strings.NewReplacer("{source}", "SOURCE", "{forwarder}", "FORWARDER", "{name}", "NAME").Replace(path))
		}
	}
	var of []string // methods whose path follows
	for _, m := range regexp.MustCompile("`([A-Z]+)(?: (/[^`]+))?`").FindAllStringSubmatch(table, -1) {
		if of = append(of, m[1]); m[2] != "" {
			for _, method := range of {
				inDocument = append(inDocument, method+" "+m[2])
			}
			of = nil
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\t(GET|POST|PUT|DELETE) +(/\S+)`).FindAllStringSubmatch(comment(t), -1) {
		inComment = append(inComment, m[1]+" "+m[2])
	}
	require.ElementsMatch(t, want, inComment)
	require.ElementsMatch(t, want, inDocument)
}
