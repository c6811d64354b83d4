// Package yamltext tells the parts of YAML and JSON apart for people to read: keys, strings, numbers, comments. It is no
// parser: it takes any text, looks at each byte a bounded number of times, and leaves nothing out.
package yamltext

import (
	"strconv"
	"strings"
)

// Class is what a part of a line is.
type Class string

// The classes. What has none is space or cannot be told.
const (
	None        Class = ""
	Key         Class = "key"
	String      Class = "string"
	Number      Class = "number"
	Constant    Class = "constant"
	Comment     Class = "comment"
	Anchor      Class = "anchor"
	Punctuation Class = "punctuation"
)

// Token is a part of a line.
type Token struct {
	Class Class
	Text  string
}

// Line is one line without its end. The texts of its tokens are the line.
type Line struct {
	Tokens []Token
	// Path is that of the line's key, as helm's --set wants it: "image.tag", "hosts[0].name". Empty where there is no key in
	// block style, or where it is deeper than maxDepth or longer than maxPathBytes.
	Path string
}

const (
	maxDepth     = 32
	maxPathBytes = 256
	// maxTokens and maxPathsBytes bound the tokens with a class, and the paths, of a whole text: on a page each takes many
	// times what it takes of the text. What is behind them has None and no path.
	maxTokens     = 30_000
	maxPathsBytes = 128 << 10
)

// YAML reads the lines of a YAML text.
func YAML(text string) []Line { return lines(text, 0) }

// JSON reads the lines of a JSON text.
func JSON(text string) []Line { return lines(text, 1) }

func lines(text string, flow int) []Line {
	var all []Line
	r := reader{flow: flow, block: -1, tokensLeft: maxTokens, pathsLeft: maxPathsBytes}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		all = append(all, r.line(line))
	}
	return all
}

// reader goes through a text line by line.
type reader struct {
	// flow is how many brackets are open at the beginning of each line.
	flow int
	// block is the column of the key whose block scalar the lines are of that are further in; -1 for none.
	block int
	// quote is the mark that ends a string of several lines; 0 for none.
	quote byte
	// above are the keys and list items that the line is in.
	above []level
	// text is the line, of which the first bytes, up to at, are in tokens; depth is that of the brackets in it.
	text   string
	at     int
	tokens []Token
	depth  int
	// tokensLeft and pathsLeft are how many tokens with a class, and bytes of paths, there may still be.
	tokensLeft, pathsLeft int
}

// level is a key, or an item of a list where name is empty, and the column at which it stands.
type level struct {
	column int
	name   string
	item   int
}

func (r *reader) line(s string) Line {
	r.text, r.at, r.tokens, r.depth = s, 0, nil, r.flow
	if r.quote != 0 {
		rest := r.quoted(s, 0)
		r.values(rest, 0)
		return Line{Tokens: r.tokens}
	}
	rest := strings.TrimLeft(s, " ")
	column := len(s) - len(rest)
	if r.block >= 0 {
		if strings.TrimSpace(s) == "" || column > r.block {
			r.add(String, s)
			return Line{Tokens: r.tokens}
		}
		r.block = -1
	}
	r.add(None, s[:column])
	switch {
	case rest == "---" || rest == "..." || strings.HasPrefix(rest, "--- ") || strings.HasPrefix(rest, "%"):
		r.add(Punctuation, rest)
		r.above = nil
		return Line{Tokens: r.tokens}
	case strings.TrimSpace(rest) == "" || rest[0] == '#':
		r.values(rest, column)
		return Line{Tokens: r.tokens}
	}
	for rest == "-" || strings.HasPrefix(rest, "- ") {
		after := strings.TrimLeft(rest[1:], " ")
		width := len(rest) - len(after)
		r.add(Punctuation, rest[:1])
		r.add(None, rest[1:width])
		r.enter(column, "")
		rest, column = after, column+width
	}
	path := ""
	if key, ok := keyOf(rest); ok && r.depth == 0 {
		r.enter(column, unquoted(key))
		path = r.path()
		r.add(Key, key)
		r.add(Punctuation, ":")
		rest = rest[len(key)+1:]
	}
	r.values(rest, column)
	return Line{Tokens: r.tokens, Path: path}
}

// add takes what comes next of the line.
func (r *reader) add(c Class, text string) {
	if text == "" {
		return
	}
	if r.tokensLeft == 0 {
		c = None
	}
	r.at += len(text)
	if last := len(r.tokens) - 1; last >= 0 && r.tokens[last].Class == c {
		r.tokens[last].Text = r.text[r.at-len(text)-len(r.tokens[last].Text) : r.at]
		return
	}
	if c != None {
		r.tokensLeft--
	}
	r.tokens = append(r.tokens, Token{c, text})
}

// enter leaves what does not contain the column, and goes into a key or, without a name, the next item of a list.
func (r *reader) enter(column int, name string) {
	item := 0
	for n := len(r.above); n > 0; n-- {
		l := r.above[n-1]
		// A list may stand at the column of its own key.
		if l.column < column || l.column == column && name == "" && l.name != "" {
			break
		}
		if name == "" && l.name == "" && l.column == column {
			item = l.item + 1
		}
		r.above = r.above[:n-1]
	}
	if len(r.above) < maxDepth {
		r.above = append(r.above, level{column, name, item})
	}
}

func (r *reader) path() string {
	if len(r.above) == maxDepth {
		return ""
	}
	var b strings.Builder
	for _, l := range r.above {
		if l.name == "" {
			b.WriteString("[" + strconv.Itoa(l.item) + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(strings.ReplaceAll(l.name, ".", `\.`))
		if b.Len() > min(maxPathBytes, r.pathsLeft) {
			return ""
		}
	}
	r.pathsLeft -= b.Len()
	return b.String()
}

// keyOf returns what stands before the colon of a key in block style, as it is written.
func keyOf(s string) (string, bool) {
	if s == "" || strings.IndexByte("#&*!|>{}[],%@`?", s[0]) >= 0 {
		return "", false
	}
	if s[0] == '"' || s[0] == '\'' {
		end := closing(s[1:], s[0])
		if end < 0 || !strings.HasPrefix(s[end+2:], ":") {
			return "", false
		}
		after := s[end+3:]
		return s[:end+2], after == "" || after[0] == ' '
	}
	for i := range len(s) {
		switch {
		case s[i] == ':' && (i+1 == len(s) || s[i+1] == ' '):
			return s[:i], true
		case s[i] == '#' && s[i-1] == ' ':
			return "", false
		}
	}
	return "", false
}

func unquoted(key string) string {
	if len(key) >= 2 && (key[0] == '"' || key[0] == '\'') {
		return key[1 : len(key)-1]
	}
	return strings.TrimRight(key, " ")
}

// closing is where the mark stands that ends a string which has begun; -1 where it does not end.
func closing(s string, mark byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && mark == '"':
			i++
		case s[i] == mark && mark == '\'' && i+1 < len(s) && s[i+1] == mark:
			i++
		case s[i] == mark:
			return i
		}
	}
	return -1
}

// quoted takes a string up to its end, which is behind the first skip bytes, and returns what follows.
func (r *reader) quoted(s string, skip int) string {
	end := closing(s[skip:], r.quote)
	if end < 0 {
		r.add(String, s)
		return ""
	}
	r.add(String, s[:skip+end+1])
	r.quote = 0
	return s[skip+end+1:]
}

// values takes what stands behind a key or dash at the column, or goes on a line.
func (r *reader) values(s string, column int) {
	for first := true; s != ""; first = false {
		rest := strings.TrimLeft(s, " \t")
		space := s[:len(s)-len(rest)]
		r.add(None, space)
		if s = rest; s == "" {
			return
		}
		switch c := s[0]; {
		case c == '#' && (space != "" || first):
			r.add(Comment, s)
			return
		case c == '"' || c == '\'':
			r.quote = c
			s = r.quoted(s, 1)
			if r.depth > 0 && strings.HasPrefix(s, ":") && r.tokensLeft > 0 {
				r.tokens[len(r.tokens)-1].Class = Key
			}
		case c == '[' || c == '{':
			r.depth++
			r.add(Punctuation, s[:1])
			s = s[1:]
		case strings.IndexByte("]},:", c) >= 0:
			if c == ']' || c == '}' {
				r.depth = max(r.flow, r.depth-1)
			}
			r.add(Punctuation, s[:1])
			s = s[1:]
		case (c == '|' || c == '>') && r.depth == 0 && isBlockHeader(s):
			r.block = column
			r.add(Punctuation, s[:1])
			s = s[1:]
		case c == '&' || c == '*' || c == '!':
			end := strings.IndexAny(s, " ,")
			if end < 0 {
				end = len(s)
			}
			r.add(Anchor, s[:end])
			s = s[end:]
		default:
			end, class := r.plain(s)
			r.add(class, s[:end])
			s = s[end:]
		}
	}
}

// isBlockHeader reports that nothing but indicators and a comment follow.
func isBlockHeader(s string) bool {
	rest := strings.TrimLeft(s[1:], "+-0123456789")
	return strings.TrimSpace(rest) == "" || strings.HasPrefix(strings.TrimLeft(rest, " \t"), "#") && rest[0] != '#'
}

// plain is how long a scalar without quotation marks is, and what it is.
func (r *reader) plain(s string) (length int, class Class) {
	end := len(s)
	key := false
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == '#' && (s[i-1] == ' ' || s[i-1] == '\t') || r.depth > 0 && strings.IndexByte(",[]{}", c) >= 0 {
			end = i
			break
		}
		if c == ':' && r.depth > 0 && (i+1 == len(s) || s[i+1] == ' ') {
			end, key = i, true
			break
		}
	}
	end = max(1, len(strings.TrimRight(s[:end], " \t")))
	switch text := s[:end]; {
	case key:
		return end, Key
	case isConstant(text):
		return end, Constant
	case isNumber(text):
		return end, Number
	}
	return end, String
}

func isConstant(s string) bool {
	switch s {
	case "true", "false", "null", "~", "True", "False", "Null", "TRUE", "FALSE", "NULL", "yes", "no", "on", "off":
		return true
	}
	return false
}

func isNumber(s string) bool {
	if len(s) > 40 || strings.Trim(s, "+-.0123456789xXabcdefABCDEF_") != "" {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	_, notInt := strconv.ParseInt(s, 0, 64)
	return err == nil && strings.ContainsAny(s, "0123456789") || notInt == nil
}
