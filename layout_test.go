package forward_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sources returns the Go files below dir that are not tests.
func sources(t *testing.T, dir string, deep bool) (paths []string) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != dir && (!deep || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			paths = append(paths, path)
		}
		return nil
	}))
	require.NotEmpty(t, paths)
	return paths
}

func TestSourceFilesAreShort(t *testing.T) {
	for _, path := range sources(t, ".", true) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.LessOrEqual(t, bytes.Count(text, []byte("\n")), 550, path)
	}
}

func TestMethodsOfATypeStandTogether(t *testing.T) {
	files := make(map[string]map[string]bool)
	for _, path := range sources(t, ".", false) {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
				typ := nameOf(f)
				if files[typ] == nil {
					files[typ] = make(map[string]bool)
				}
				files[typ][path] = true
			}
		}
	}
	require.Contains(t, files, "Server")
	for typ, in := range files {
		require.LessOrEqual(t, len(in), 2, "%s: %v", typ, in)
	}
}
