package main

import (
	"bytes"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// A webForm is a form of an HTML page with the values it would send by itself.
type webForm struct {
	action string
	fields url.Values
	// buttons are those that have a name.
	buttons []button
}

type button struct{ name, value string }

// formsOf reads the forms of a page in their order.
func formsOf(page []byte) []webForm {
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return nil
	}
	var forms []webForm
	for n := range root.Descendants() {
		if n.DataAtom == atom.Form {
			forms = append(forms, readForm(n))
		}
	}
	return forms
}

func readForm(form *html.Node) webForm {
	f := webForm{action: attribute(form, "action"), fields: url.Values{}}
	for n := range form.Descendants() {
		name := attribute(n, "name")
		if name == "" {
			continue
		}
		switch {
		case n.DataAtom == atom.Button, n.DataAtom == atom.Input && attribute(n, "type") == "submit":
			f.buttons = append(f.buttons, button{name, attribute(n, "value")})
		case n.DataAtom == atom.Input:
			f.fields.Add(name, attribute(n, "value"))
		}
	}
	return f
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// visibleText answers what a person reads on a page.
func visibleText(page []byte) string {
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return ""
	}
	var said []string
	for n := range root.Descendants() {
		if n.Type != html.TextNode || n.Parent == nil {
			continue
		}
		if a := n.Parent.DataAtom; a != atom.Script && a != atom.Style && a != atom.Title {
			said = append(said, n.Data)
		}
	}
	return strings.Join(said, " ")
}

// shorten brings text to one line of at most n runes.
func shorten(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n]) + "…"
}
