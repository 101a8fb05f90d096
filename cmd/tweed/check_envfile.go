package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// An envFile has the variables of a file that systemd reads (EnvironmentFile= of
// systemd.exec(5)). Nothing in it is run or expanded.
type envFile map[string]string

// readEnvFile reads a file, of at most 1 MiB. The errors name it.
func readEnvFile(name string) (envFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxConfig:
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, maxConfig)
	}
	return parseEnvFile(string(text)), nil
}

// environ has all of it in the form of os.Environ.
func (e envFile) environ() (all []string) {
	for name, value := range e {
		all = append(all, name+"="+value)
	}
	slices.Sort(all)
	return all
}

// options is what $FLANNEL_OPTIONS becomes on the command line of the unit.
func (e envFile) options() []string { return splitWords(e["FLANNEL_OPTIONS"]) }

const blanks = " \t\r\n"

// parseEnvFile reads what systemd reads, in the same way: NAME=value in lines,
// where # or ; at the beginning makes a comment, quotes begin only where a value
// or a part of it does, and a backslash at the end joins lines. What has no valid
// name is left out, such as "export NAME".
func parseEnvFile(text string) envFile {
	e := make(envFile)
	for text != "" {
		text = strings.TrimLeft(text, blanks)
		if text != "" && strings.ContainsRune("#;", rune(text[0])) {
			_, text = cutLine(text)
			continue
		}
		end := strings.IndexAny(text, "=\n\r")
		if end < 0 {
			break
		}
		name, found := strings.TrimRight(text[:end], blanks), text[end] == '='
		text = text[end+1:]
		if !found {
			continue
		}
		var value string
		value, text = envValue(text)
		if validName(name) {
			e[name] = value
		}
	}
	return e
}

// cutLine splits behind the first line, which a backslash before its end
// continues.
func cutLine(s string) (line, rest string) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '\n', '\r':
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// envValue reads a value up to the end of its line.
func envValue(s string) (value, rest string) {
	var b strings.Builder
	keep := 0     // length up to which blanks at the end count
	fresh := true // at the beginning, or behind a closing quote
	for s != "" {
		c := s[0]
		s = s[1:]
		switch {
		case c == '\n' || c == '\r':
			return b.String()[:keep], s
		case fresh && (c == '\'' || c == '"'):
			var part string
			part, s = quotedPart(s, c)
			b.WriteString(part)
			keep = b.Len()
		case c == '\\' && s != "":
			if s[0] != '\n' && s[0] != '\r' {
				b.WriteByte(s[0])
			}
			s, fresh, keep = s[1:], false, b.Len()
		case strings.IndexByte(blanks, c) >= 0:
			if !fresh {
				b.WriteByte(c)
			}
		case c != '\\':
			b.WriteByte(c)
			fresh, keep = false, b.Len()
		}
	}
	return b.String()[:keep], ""
}

// quotedPart reads up to the closing quote. In double quotes a backslash is one
// unless it stands before what a shell would need it for, or joins lines.
func quotedPart(s string, quote byte) (part, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == quote:
			return b.String(), s[i+1:]
		case c == '\\' && quote == '"' && i+1 < len(s):
			i++
			if strings.IndexByte("\"\\`$\n", s[i]) < 0 {
				b.WriteByte('\\')
			}
			if s[i] != '\n' {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

func validName(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// splitWords splits as systemd splits $NAME on a command line
// (systemd.service(5)): at blanks, where quotes are respected and removed, and a
// backslash takes the meaning from the next character.
func splitWords(s string) (words []string) {
	var b strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			inWord = true
		case c == quote && quote != 0:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			if inWord {
				words = append(words, b.String())
			}
			b.Reset()
			inWord = false
		default:
			b.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, b.String())
	}
	return words
}
