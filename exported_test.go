package forward_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// undocumented returns the exported identifiers of a package that have no comment. A
// comment on a group of constants counts for each of them, and a comment on a field for
// the fields below that it names.
func undocumented(t *testing.T, dir string) (names []string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		require.NoError(t, err)
		missing := func(name string, comments ...*ast.CommentGroup) {
			for _, c := range comments {
				if strings.TrimSpace(c.Text()) != "" {
					return
				}
			}
			names = append(names, dir+": "+name)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if name := nameOf(d); ast.IsExported(d.Name.Name) && ast.IsExported(name) && d.Name.Name != "Error" {
					missing(name+"."+d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, id := range s.Names {
							if id.IsExported() {
								missing(id.Name, d.Doc, s.Doc, s.Comment)
							}
						}
					case *ast.TypeSpec:
						if s.Name.IsExported() {
							missing(s.Name.Name, d.Doc, s.Doc, s.Comment)
							names = append(names, undocumentedFields(dir+": "+s.Name.Name, s)...)
						}
					}
				}
			}
		}
	}
	return names
}

// nameOf returns the type of a method, or the name of a function.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func undocumentedFields(of string, s *ast.TypeSpec) (names []string) {
	typ, ok := s.Type.(*ast.StructType)
	if !ok {
		return nil
	}
	above := "" // the last comment above a field
	for _, f := range typ.Fields.List {
		if f.Doc != nil {
			above = f.Doc.Text()
		}
		for _, id := range f.Names {
			named := regexp.MustCompile(`\b` + id.Name + `\b`).MatchString(above)
			if id.IsExported() && f.Doc == nil && f.Comment == nil && !named {
				names = append(names, of+"."+id.Name)
			}
		}
	}
	return names
}

func TestExportedIdentifiersHaveComments(t *testing.T) {
	for _, dir := range []string{".", "auth", "resolve", "srs", "control", "live", "metrics", "probe", "status", "flv", "forwardtest"} {
		require.Empty(t, undocumented(t, dir), dir)
	}
}
