import { marked } from 'marked';

/** A page of the notebook, written in Markdown. */
export interface Note {
	slug: string;
	title: string;
	text: string;
}

const notes: Note[] = [
	{ slug: 'layers', title: 'Layers', text: 'A *layer* is a tar of what changed. It is `gzip`ped last.' },
	{ slug: 'stages', title: 'Stages', text: 'Only what the target needs is built:\n\n1. builder\n2. runtime' }
];

export function all(): Pick<Note, 'slug' | 'title'>[] {
	return notes.map(({ slug, title }) => ({ slug, title }));
}

/** The note with this slug as HTML, rendered on the server by a production dependency. */
export function render(slug: string): { title: string; html: string } | undefined {
	const note = notes.find((note) => note.slug === slug);
	return note && { title: note.title, html: marked.parse(note.text, { async: false }) };
}
